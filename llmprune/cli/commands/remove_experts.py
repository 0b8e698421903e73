"""``llmprune remove-experts``."""

from __future__ import annotations

from llmprune.choices import DEVICE, EXPERT_TARGET, SHARD_SIZE, Dtype, ExpertMetric
from llmprune.cli.console import Console
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
from llmprune.cli.options.experts import ExpertMetricOpt, ExpertsOpt, ExpertTargetOpt
from llmprune.cli.options.publishing import PushPrivateOpt, PushToHubOpt, read_push
from llmprune.cli.views.experts import experts_teller, show_experts
from llmprune.cli.views.plan import give_plan
from llmprune.cli.views.push import describe_push, listing_teller, show_push

EXAMPLES = """
llmprune remove-experts ./my-mixture --target 25%
llmprune remove-experts --target 2 --metric frequency --out ./fewer-experts
llmprune remove-experts --experts 0:3,7 --experts 1:0,4
"""


def remove_experts(
    model: ModelArg = None,
    target: ExpertTargetOpt = EXPERT_TARGET,
    experts: ExpertsOpt = None,
    metric: ExpertMetricOpt = ExpertMetric.REAP,
    device: DeviceOpt = DEVICE,
    dtype: DtypeOpt = Dtype.AUTO,
    memory_budget: MemoryBudgetOpt = None,
    trust_remote_code: RemoteCodeOpt = False,
    check: CheckOpt = True,
    out: OutOpt = None,
    max_shard_size: ShardSizeOpt = SHARD_SIZE,
    verify: VerifyOpt = True,
    push_to_hub: PushToHubOpt = None,
    private: PushPrivateOpt = False,
    run: RunOpt = DEFAULT_RUN,
    force: ForceOpt = False,
    plan: PlanOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Write a checkpoint without the experts that matter least, and check that it computes what it should."""
    from llmprune.artifacts.files.sizes import parse_size
    from llmprune.models.compute import choose_compute
    from llmprune.stages.common.intact import Intact
    from llmprune.stages.common.workspace import open_workspace
    from llmprune.stages.expert_removal import ExpertSettings, parse_experts, plan_expert_removal
    from llmprune.stages.expert_removal import remove_experts as run_stage
    from llmprune.stages.publishing import push_written

    console = Console(as_json=as_json, quiet=quiet)
    settings = ExpertSettings(
        target=target,
        experts=parse_experts(experts),
        metric=metric,
        out=out,
        max_shard_bytes=parse_size(max_shard_size),
        verify=verify,
        force=force,
    )
    publishing = read_push(push_to_hub, private=private)
    workspace = open_workspace(
        run,
        model,
        compute=choose_compute(device, dtype, memory_budget),
        progress=console,
        trust_remote_code=trust_remote_code,
        makes_files=not plan,
        intact=Intact(check),
    )
    if plan:
        give_plan(console, plan_expert_removal(workspace, settings))
        return
    report = run_stage(workspace, settings, on_block=experts_teller(console))
    pushed = push_written(workspace, report.directory, publishing, on_listing=listing_teller(console))

    def show(console: Console) -> None:
        show_experts(console, report)
        show_push(console, pushed)

    record = report.record.model_dump(mode="json")
    console.result({"directory": str(report.directory), **record, "pushed": describe_push(pushed)}, shown=show)
