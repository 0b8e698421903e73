"""``llmprune prune``."""

from __future__ import annotations

from llmprune.choices import DEVICE, SHARD_SIZE, Bos, Dtype
from llmprune.cli.console import Console
from llmprune.cli.options.bench import BatchOpt, MaxWindowsOpt, PplOpt, PplSeqLenOpt, QuickOpt, read_bench
from llmprune.cli.options.budget import SizeOpt, SpeedUpOpt
from llmprune.cli.options.calibration import (
    RunChatTemplateOpt,
    RunSamplesOpt,
    RunSeqLenOpt,
    RunSourceOpt,
    read_calibration,
)
from llmprune.cli.options.checkpoint import OutOpt, ShardSizeOpt, VerifyOpt
from llmprune.cli.options.common import (
    DEFAULT_RUN,
    CheckOpt,
    DeviceOpt,
    DtypeOpt,
    ForceOpt,
    JsonOpt,
    MemoryBudgetOpt,
    ModelArg,
    PlanOpt,
    QuietOpt,
    RemoteCodeOpt,
    RunOpt,
)
from llmprune.cli.views.budget import show_budget
from llmprune.cli.views.healing import healing_teller
from llmprune.cli.views.plan import give_plan
from llmprune.cli.views.search import round_teller

EXAMPLES = """
llmprune prune ./my-model --size 70%
llmprune prune ./my-model --size 100M --ppl wikitext2 --out ./smaller-model
llmprune prune ./my-model --speed-up 1.3 --batch 8 --quick
"""


def prune(
    model: ModelArg = None,
    size: SizeOpt = None,
    speed_up: SpeedUpOpt = None,
    quick: QuickOpt = False,
    source: RunSourceOpt = None,
    samples: RunSamplesOpt = None,
    seq_len: RunSeqLenOpt = None,
    chat_template: RunChatTemplateOpt = None,
    ppl: PplOpt = None,
    ppl_seq_len: PplSeqLenOpt = None,
    max_windows: MaxWindowsOpt = None,
    batch: BatchOpt = None,
    device: DeviceOpt = DEVICE,
    dtype: DtypeOpt = Dtype.AUTO,
    memory_budget: MemoryBudgetOpt = None,
    trust_remote_code: RemoteCodeOpt = False,
    check: CheckOpt = True,
    out: OutOpt = None,
    max_shard_size: ShardSizeOpt = SHARD_SIZE,
    verify: VerifyOpt = True,
    run: RunOpt = DEFAULT_RUN,
    force: ForceOpt = False,
    plan: PlanOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Prune a model to a size or a speed: remove blocks, heal what stays, and measure it beside the alternatives."""
    from llmprune.artifacts.files.sizes import parse_size
    from llmprune.models.compute import choose_compute
    from llmprune.stages.budget_pruning import BudgetSettings, Listeners, plan_budget, prune_to_budget
    from llmprune.stages.common.intact import Intact
    from llmprune.stages.common.workspace import open_workspace

    console = Console(as_json=as_json, quiet=quiet)
    measured = read_bench(
        quick=quick,
        ppl=ppl,
        ppl_seq_len=ppl_seq_len,
        max_windows=max_windows,
        bos=Bos.AUTO,
        tasks=None,
        lm_eval_include=None,
        limit=None,
        agreement=0,
        batch=batch,
        gen=None,
        prompt=None,
        prefill=None,
        repeats=None,
        max_seconds=None,
        no_speed=False,
    )
    settings = BudgetSettings(
        size=size,
        speed_up=speed_up,
        calibration=read_calibration(source=source, samples=samples, seq_len=seq_len, chat_template=chat_template),
        measured=measured,
        out=out,
        max_shard_bytes=parse_size(max_shard_size),
        verify=verify,
        force=force,
    )
    compute = choose_compute(device, dtype, memory_budget)
    workspace = open_workspace(
        run,
        model,
        compute=compute,
        progress=console,
        trust_remote_code=trust_remote_code,
        makes_files=not plan,
        intact=Intact(check),
    )
    if plan:
        give_plan(console, plan_budget(workspace, settings))
        return
    listeners = Listeners(round_teller(console), healing_teller(console))
    report = prune_to_budget(workspace, settings, listeners=listeners)
    result = {"directory": str(report.directory), **report.result.model_dump(mode="json")}
    console.result(result, shown=lambda console: show_budget(console, report))
