"""``llmprune quickstart``."""

from __future__ import annotations

from llmprune.choices import DEVICE, Dtype
from llmprune.cli.console import Console
from llmprune.cli.options.common import DEFAULT_RUN, DeviceOpt, DtypeOpt, JsonOpt, MemoryBudgetOpt, QuietOpt, RunOpt
from llmprune.cli.views.quickstart import show_quickstart
from llmprune.cli.views.search import round_teller

EXAMPLES = """
llmprune quickstart
llmprune quickstart --run /tmp/try-llmprune --dtype float32
"""


def quickstart(
    device: DeviceOpt = DEVICE,
    dtype: DtypeOpt = Dtype.AUTO,
    memory_budget: MemoryBudgetOpt = None,
    run: RunOpt = DEFAULT_RUN,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """See it work: prune a real 135M model by 20% and compare, offline, in a few minutes."""
    from llmprune.models.compute import choose_compute
    from llmprune.stages.quickstart import quickstart as run_stage

    console = Console(as_json=as_json, quiet=quiet)
    report = run_stage(
        run, compute=choose_compute(device, dtype, memory_budget), progress=console, on_round=round_teller(console)
    )
    data = {
        "directory": str(report.removal.directory),
        "record": report.removal.record.model_dump(mode="json"),
        "bench": report.result.model_dump(mode="json"),
        "samples": {"dense": report.generations[0], "pruned": report.generations[1]},
    }
    console.result(data, shown=lambda console: show_quickstart(console, report))
    console.say(f"The pruned checkpoint: {report.removal.directory}")
    console.say(f"All of it as one page: llmprune report {run}")
