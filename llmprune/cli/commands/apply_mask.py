"""``llmprune apply-mask``."""

from __future__ import annotations

from llmprune.choices import DEVICE, SHARD_SIZE, Dtype
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
    PlanOpt,
    QuietOpt,
    RemoteCodeOpt,
    RunOpt,
)
from llmprune.cli.options.masking import MaskArg, SiblingArg
from llmprune.cli.views.masking import show_masking
from llmprune.cli.views.plan import give_plan

EXAMPLES = """
llmprune apply-mask ./my-fine-tuned-model mask.safetensors --run tuned-run
llmprune apply-mask owner/fine-tuned ./pruned-checkpoint --run tuned-run --out ./tuned-and-sparse
"""


def apply_mask(
    model: SiblingArg,
    mask: MaskArg,
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
    """Write a checkpoint of MODEL with the weights zero that are zero in MASK, all else bit for bit."""
    from llmprune.artifacts.files.sizes import parse_size
    from llmprune.models.compute import choose_compute
    from llmprune.stages.common.intact import Intact
    from llmprune.stages.common.workspace import open_workspace
    from llmprune.stages.masking import MaskSettings, plan_masking
    from llmprune.stages.masking import apply_mask as run_stage

    console = Console(as_json=as_json, quiet=quiet)
    settings = MaskSettings(mask=mask, out=out, max_shard_bytes=parse_size(max_shard_size), verify=verify, force=force)
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
        give_plan(console, plan_masking(workspace, settings))
        return
    report = run_stage(workspace, settings)
    data = {"directory": str(report.directory), **report.record.model_dump(mode="json")}
    console.result(data, shown=lambda console: show_masking(console, report))
