"""``llmprune heal``."""

from __future__ import annotations

from llmprune.choices import DEVICE, SHARD_SIZE, Dtype, Scope
from llmprune.cli.console import Console
from llmprune.cli.options.calibration import CalibrationOpt, RunSamplesOpt, RunSeqLenOpt
from llmprune.cli.options.checkpoint import OutOpt, ShardSizeOpt, VerifyOpt
from llmprune.cli.options.common import (
    DEFAULT_RUN,
    CheckOpt,
    DeviceOpt,
    DtypeOpt,
    ForceOpt,
    JsonOpt,
    MemoryBudgetOpt,
    PlanOpt,
    QuietOpt,
    RemoteCodeOpt,
    RunOpt,
)
from llmprune.cli.options.healing import PrunedArg, ScopeOpt, TeacherOpt
from llmprune.cli.options.publishing import PushPrivateOpt, PushToHubOpt, read_push
from llmprune.cli.views.healing import healing_teller, show_healing
from llmprune.cli.views.plan import give_plan
from llmprune.cli.views.push import describe_push, listing_teller, show_push

EXAMPLES = """
llmprune heal llmprune-run/my-model-24of30-sleb
llmprune heal ./sparse-model --teacher ./my-model --samples 64 --out ./healed-model
llmprune heal ./smaller-model --scope cut
"""


def heal(
    checkpoint: PrunedArg,
    teacher: TeacherOpt = None,
    scope: ScopeOpt = Scope.ALL,
    samples: RunSamplesOpt = None,
    seq_len: RunSeqLenOpt = None,
    calibration: CalibrationOpt = None,
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
    """Write a pruned checkpoint anew, its blocks solved to give what the dense model's did."""
    from llmprune.artifacts.files.sizes import parse_size
    from llmprune.models.compute import choose_compute
    from llmprune.stages.common.intact import Intact
    from llmprune.stages.common.workspace import open_workspace
    from llmprune.stages.healing import HealSettings, plan_heal
    from llmprune.stages.healing import heal as run_stage
    from llmprune.stages.publishing import push_written

    console = Console(as_json=as_json, quiet=quiet)
    settings = HealSettings(
        scope=scope,
        samples=samples,
        seq_len=seq_len,
        calibration=calibration,
        out=out,
        max_shard_bytes=parse_size(max_shard_size),
        verify=verify,
        force=force,
    )
    publishing = read_push(push_to_hub, private=private)
    compute = choose_compute(device, dtype, memory_budget)
    workspace = open_workspace(
        run,
        teacher,
        compute=compute,
        progress=console,
        trust_remote_code=trust_remote_code,
        makes_files=not plan,
        intact=Intact(check),
    )
    if plan:
        give_plan(console, plan_heal(workspace, checkpoint, settings))
        return
    report = run_stage(workspace, checkpoint, settings, on_block=healing_teller(console))
    pushed = push_written(workspace, report.directory, publishing, on_listing=listing_teller(console))

    def show(console: Console) -> None:
        show_healing(console, report)
        show_push(console, pushed)

    record = report.record.model_dump(mode="json")
    console.result({"directory": str(report.directory), **record, "pushed": describe_push(pushed)}, shown=show)
