"""``llmprune remove-blocks``."""

from __future__ import annotations

from llmprune.choices import DEVICE, SHARD_SIZE, TARGET, Dtype, Heal
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
from llmprune.cli.options.healing import HealOpt
from llmprune.cli.options.publishing import PushPrivateOpt, PushToHubOpt, read_push
from llmprune.cli.options.search import BlocksOpt, TargetOpt
from llmprune.cli.views.healing import healing_teller
from llmprune.cli.views.plan import give_plan
from llmprune.cli.views.push import describe_push, listing_teller, show_push
from llmprune.cli.views.removal import show_removal
from llmprune.cli.views.search import round_teller

EXAMPLES = """
llmprune remove-blocks --target 20%
llmprune remove-blocks ./my-model --blocks 3,7,12 --out ./smaller-model
llmprune remove-blocks --target 20% --heal all
llmprune remove-blocks --target 6 --push-to-hub owner/name --private
"""


def remove_blocks(
    model: ModelArg = None,
    target: TargetOpt = TARGET,
    blocks: BlocksOpt = None,
    heal: HealOpt = None,
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
    """Write a checkpoint without its most redundant blocks, and check that it computes what it should."""
    from llmprune.artifacts.files.sizes import parse_size
    from llmprune.models.compute import choose_compute
    from llmprune.stages.block_removal import RemovalSettings, parse_blocks, plan_removal
    from llmprune.stages.block_removal import remove_blocks as run_stage
    from llmprune.stages.common.intact import Intact
    from llmprune.stages.common.workspace import open_workspace
    from llmprune.stages.publishing import push_written

    console = Console(as_json=as_json, quiet=quiet)
    settings = RemovalSettings(
        target=target,
        blocks=parse_blocks(blocks),
        heal=heal,
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
        without=(settings.blocks or ()) if heal in (None, Heal.NONE) else (),
    )
    if plan:
        give_plan(console, plan_removal(workspace, settings))
        return
    report = run_stage(workspace, settings, on_round=round_teller(console), on_block=healing_teller(console))
    pushed = push_written(workspace, report.directory, publishing, on_listing=listing_teller(console))

    def show(console: Console) -> None:
        show_removal(console, report)
        show_push(console, pushed)

    record = report.record.model_dump(mode="json")
    console.result({"directory": str(report.directory), **record, "pushed": describe_push(pushed)}, shown=show)
