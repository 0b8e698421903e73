"""``llmprune report``."""

from __future__ import annotations

from llmprune.choices import DEVICE, DeviceMap, Dtype
from llmprune.cli.console import Console
from llmprune.cli.options.common import (
    DEFAULT_RUN,
    DeviceMapOpt,
    DeviceOpt,
    DtypeOpt,
    JsonOpt,
    MemoryBudgetOpt,
    PlanOpt,
    QuietOpt,
    RemoteCodeOpt,
    RunOpt,
)
from llmprune.cli.options.reporting import PageOpt, PromptsOpt, RunArg
from llmprune.cli.views.plan import give_plan
from llmprune.cli.views.report import show_report

EXAMPLES = """
llmprune report
llmprune report my-run --out ./page
llmprune report --prompt "The most important thing about the sea is"
"""


def report(
    directory: RunArg = None,
    prompt: PromptsOpt = None,
    device: DeviceOpt = DEVICE,
    dtype: DtypeOpt = Dtype.AUTO,
    memory_budget: MemoryBudgetOpt = None,
    device_map: DeviceMapOpt = DeviceMap.NONE,
    trust_remote_code: RemoteCodeOpt = False,
    out: PageOpt = None,
    run: RunOpt = DEFAULT_RUN,
    plan: PlanOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Write one HTML page of everything that a run measured, with charts, tables and where each number is from."""
    from llmprune.artifacts.run import RunDirectory
    from llmprune.models.compute import choose_compute
    from llmprune.stages.reporting import plan_report, write_generations
    from llmprune.stages.reporting import report as run_stage

    console, place = Console(as_json=as_json, quiet=quiet), RunDirectory(directory or run)
    compute = choose_compute(device, dtype, memory_budget, device_map)
    if plan:
        give_plan(
            console,
            plan_report(place, prompt or (), compute=compute, progress=console, trust_remote_code=trust_remote_code),
        )
        return
    if prompt:
        write_generations(place, prompt, compute=compute, progress=console, trust_remote_code=trust_remote_code)
    written = run_stage(place, out=out, progress=console)
    data = {
        "page": str(written.page),
        "figures": [str(path) for path in written.figures],
        "missing": [{"what": one.what, "command": one.command} for one in written.missing],
    }
    console.result(data, shown=lambda console: show_report(console, written))
