"""``llmprune verify-redundancy``."""

from __future__ import annotations

from llmprune.choices import DEVICE, ERROR_RATE, PROTECT_FIRST, PROTECT_LAST, TARGET, Dtype, Metric, Search
from llmprune.cli.console import Console
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
from llmprune.cli.options.healing import HealSearchOpt
from llmprune.cli.options.search import (
    BatchSizeOpt,
    ChunkWindowsOpt,
    ErrorRateOpt,
    MetricOpt,
    ProtectFirstOpt,
    ProtectLastOpt,
    SearchOpt,
    SwapOpt,
    TargetOpt,
)
from llmprune.cli.views.plan import give_plan
from llmprune.cli.views.search import round_teller, show_importance, swap_teller

EXAMPLES = """
llmprune verify-redundancy --target 20%
llmprune verify-redundancy ./my-model --target 6 --search exhaustive
llmprune verify-redundancy --target 20% --heal
llmprune verify-redundancy --metric block-influence --run quick-run
"""


def verify_redundancy(
    model: ModelArg = None,
    target: TargetOpt = TARGET,
    metric: MetricOpt = Metric.SLEB,
    search: SearchOpt = Search.ELIMINATE,
    error_rate: ErrorRateOpt = ERROR_RATE,
    protect_first: ProtectFirstOpt = PROTECT_FIRST,
    protect_last: ProtectLastOpt = PROTECT_LAST,
    heal: HealSearchOpt = False,
    swap: SwapOpt = 0,
    chunk_windows: ChunkWindowsOpt = None,
    batch_size: BatchSizeOpt = None,
    device: DeviceOpt = DEVICE,
    dtype: DtypeOpt = Dtype.AUTO,
    memory_budget: MemoryBudgetOpt = None,
    trust_remote_code: RemoteCodeOpt = False,
    check: CheckOpt = True,
    run: RunOpt = DEFAULT_RUN,
    force: ForceOpt = False,
    plan: PlanOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Find the most redundant blocks: skip each, keep the best choice, and measure again."""
    from llmprune.models.compute import choose_compute
    from llmprune.stages.block_search import RedundancySettings, plan_search
    from llmprune.stages.block_search import verify_redundancy as run_stage
    from llmprune.stages.common.intact import Intact
    from llmprune.stages.common.workspace import open_workspace

    console = Console(as_json=as_json, quiet=quiet)
    settings = RedundancySettings(
        target=target,
        metric=metric,
        search=search,
        protect_first=protect_first,
        protect_last=protect_last,
        error_rate=error_rate,
        chunk_windows=chunk_windows,
        batch_size=batch_size,
        heal=heal,
        swap=swap,
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
        give_plan(console, plan_search(workspace, settings, force=force))
        return
    importance = run_stage(
        workspace, settings, on_round=round_teller(console), on_swap=swap_teller(console), force=force
    )
    console.result(importance.model_dump(mode="json"), shown=lambda console: show_importance(console, importance))
    console.say(f"Written to {workspace.run.importance}. Next: llmprune remove-blocks --target {target}")
