"""``llmprune remove-experts``: write the checkpoint without each block's least important experts, and verify it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llmprune.artifacts.records.expert_importance import BlockExperts
from llmprune.artifacts.records.pruning import ExpertRemoval, PruningRecord
from llmprune.models.expert_surgery import ExpertLayout, expert_layout
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.expert_removal.choose import choose_experts, named_experts
from llmprune.stages.expert_removal.settings import ExpertSettings, check_experts, count_to_remove
from llmprune.stages.expert_removal.write import plan_cut, write_checkpoint
from llmprune.stages.output.place import check_output
from llmprune.stages.output.record import made_before


@dataclass(frozen=True)
class ExpertReport:
    """What was written.

    Attributes:
        directory: the pruned checkpoint.
        record: its ``llmprune.json``.
        source_bytes: weight bytes of the source checkpoint.
    """

    directory: Path
    record: PruningRecord
    source_bytes: int


def remove_experts(
    workspace: Workspace,
    settings: ExpertSettings,
    *,
    removal: ExpertRemoval | None = None,
    on_block: Callable[[BlockExperts], None] = lambda _: None,
) -> ExpertReport:
    """Write a checkpoint without the experts that matter least, as many of every block that has experts.

    Where the run has no measurement of its experts, ``calibrate`` runs first if need be, then one pass over its
    windows. Router rows go with their experts; every kept weight is the same bit for bit. A checkpoint that was made
    like this before is kept.

    Args:
        workspace: run directory and model.
        settings: how many to remove, by what, and how to write.
        removal: the experts, where they are chosen already.
        on_block: called for every block that is measured.

    Raises:
        TargetError: no such target, or one that leaves experts that could not be routed to.
        ModelError: the model has no experts, or they cannot be told apart or removed.
        OutputExistsError: the output directory holds something else.
        ArtifactError: a calibration or measurement of another model.
        CheckpointError: the source's files are not whole, or a kept weight is NaN or infinite.
        NumericalError: the model computes NaN or infinity.
        VerificationError: the written checkpoint does not compute what it should.
        LlmpruneError: the disk is full.
    """
    layout = layout_of(workspace)
    if settings.experts is not None:
        check_experts(settings.experts, layout)
        removal = named_experts(workspace, settings.experts, layout)
    count = count_to_remove(settings.target, layout) if removal is None else removal.before - removal.left
    if settings.out is not None:  # checked before anything that takes long, as is whether experts can go at all
        check_output(workspace, settings.out, force=settings.force)
    plan_cut(workspace, removal or some_experts(layout, count))
    removal = removal or choose_experts(workspace, layout, settings.metric, count=count, on_block=on_block)
    out = settings.out or _default_out(workspace, removal)
    check_output(workspace, out, force=settings.force)
    with workspace.run.recorded(workspace.record):
        check_output(workspace, out, force=settings.force)
        record = made_before(
            workspace, out, differs=partial(_other, removal), verify=settings.verify, force=settings.force
        )
        if record is None:
            record = write_checkpoint(workspace, settings, removal, out)
        workspace.run.remember_checkpoint(out, workspace.record)
    return ExpertReport(out, record, workspace.open_checkpoint().nbytes)


def layout_of(workspace: Workspace) -> ExpertLayout:
    """The experts of a workspace's model.

    Raises:
        ModelError: it has none that can be told apart.
    """
    shell = workspace.open_shell()
    return expert_layout(shell.model, shell.model.config)


def some_experts(layout: ExpertLayout, count: int) -> ExpertRemoval:
    """A removal of some experts, which tells whether any can go."""
    removed = dict.fromkeys(layout.blocks, tuple(range(count)))
    return ExpertRemoval(removed=removed, before=layout.count, left=layout.count - count)


def _other(removal: ExpertRemoval, record: PruningRecord) -> str | None:
    """How a record is of the removal of other experts than these."""
    if record.experts is None:
        return "no experts removed"
    return None if record.experts.removed == removal.removed else "other experts removed"


def _default_out(workspace: Workspace, removal: ExpertRemoval) -> Path:
    """The place of a result without ``--out``: named after the model and the experts that stay."""
    name = workspace.model.own_name
    return workspace.run.path / f"{name}-{removal.left}of{removal.before}experts-{removal.metric or 'chosen'}"
