"""``llmprune push``."""

from __future__ import annotations

from llmprune.choices import DEVICE, Dtype
from llmprune.cli.console import Console
from llmprune.cli.options.common import (
    DEFAULT_RUN,
    CheckOpt,
    DeviceOpt,
    DtypeOpt,
    JsonOpt,
    MemoryBudgetOpt,
    PlanOpt,
    QuietOpt,
    RemoteCodeOpt,
    RunOpt,
)
from llmprune.cli.options.publishing import (
    ArtifactsOpt,
    BaseModelOpt,
    CheckpointArg,
    CreatePrOpt,
    DryRunOpt,
    PrivateOpt,
    ReplaceOpt,
    RepositoryArg,
    RevisionOpt,
    TagOpt,
)
from llmprune.cli.views.plan import give_plan
from llmprune.cli.views.push import describe_push, listing_teller, show_push

EXAMPLES = """
llmprune push llmprune-run/NAME owner/name --private --include-artifacts
llmprune push llmprune-run/NAME owner/name --dry-run
llmprune push llmprune-run/NAME owner/name --revision pruned --tag v1
"""


def push(
    checkpoint: CheckpointArg,
    repository: RepositoryArg,
    private: PrivateOpt = False,
    revision: RevisionOpt = None,
    create_pr: CreatePrOpt = False,
    tag: TagOpt = None,
    include_artifacts: ArtifactsOpt = False,
    base_model: BaseModelOpt = None,
    dry_run: DryRunOpt = False,
    force: ReplaceOpt = False,
    device: DeviceOpt = DEVICE,
    dtype: DtypeOpt = Dtype.AUTO,
    memory_budget: MemoryBudgetOpt = None,
    trust_remote_code: RemoteCodeOpt = False,
    check: CheckOpt = True,
    run: RunOpt = DEFAULT_RUN,
    plan: PlanOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Verify a pruned checkpoint and publish it on the Hugging Face Hub, with a model card."""
    from llmprune.artifacts.run import RunDirectory
    from llmprune.models.compute import choose_compute
    from llmprune.publishing.destination import Destination
    from llmprune.stages.common.intact import Intact
    from llmprune.stages.publishing import PushSettings, plan_push
    from llmprune.stages.publishing import push as run_stage

    console = Console(as_json=as_json, quiet=quiet)
    settings = PushSettings(
        Destination(repo_id=repository, private=private, revision=revision, create_pr=create_pr, tag=tag, force=force),
        include_artifacts=include_artifacts,
        base_model=base_model,
        dry_run=dry_run,
    )
    compute = choose_compute(device, dtype, memory_budget)
    if plan:
        give_plan(console, plan_push(checkpoint, settings, compute=compute, trust_remote_code=trust_remote_code))
        return
    report = run_stage(
        checkpoint,
        settings,
        run=RunDirectory(run),
        compute=compute,
        progress=console,
        trust_remote_code=trust_remote_code,
        intact=Intact(check),
        on_listing=listing_teller(console),
    )
    console.result(describe_push(report), shown=lambda console: show_push(console, report))
