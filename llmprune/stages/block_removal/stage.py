"""``llmprune remove-blocks``: write the checkpoint without its most redundant blocks, and verify it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from llmprune.artifacts.checkpoints.block_numbers import kept_blocks
from llmprune.artifacts.checkpoints.checkpoint import Checkpoint
from llmprune.artifacts.records.differences import differences
from llmprune.artifacts.records.healing import BlockHealing
from llmprune.artifacts.records.importance import RoundRecord
from llmprune.artifacts.records.pruning import BlockRemoval, PruningRecord
from llmprune.choices import Heal
from llmprune.models.loading import stored_dtype
from llmprune.stages.block_removal.choose import choose_removal
from llmprune.stages.block_removal.healing import RemovalHealing, planned_healing
from llmprune.stages.block_removal.settings import RemovalSettings
from llmprune.stages.block_removal.write import write_checkpoint
from llmprune.stages.block_search import RedundancySettings, open_check
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.output.place import check_output
from llmprune.stages.output.record import made_before
from llmprune.text.windows import TokenWindows


@dataclass(frozen=True)
class RemovalReport:
    """What was written.

    Attributes:
        directory: the pruned checkpoint.
        record: its ``llmprune.json``.
        source_bytes: weight bytes of the source checkpoint.
    """

    directory: Path
    record: PruningRecord
    source_bytes: int


def remove_blocks(
    workspace: Workspace,
    settings: RemovalSettings,
    *,
    redundancy: RedundancySettings | None = None,
    removal: BlockRemoval | None = None,
    windows: TokenWindows | None = None,
    on_round: Callable[[RoundRecord], None] = lambda _: None,
    on_block: Callable[[BlockHealing], None] = lambda _: None,
) -> RemovalReport:
    """Write a checkpoint without the blocks that a target or a list names.

    With a target, the stages that are missing (``calibrate``, ``verify-redundancy``) run first.
    Tensors are streamed from file to file; every kept one is the same bit for bit, but for those that are healed.
    A healing that was interrupted goes on at the next block. A checkpoint that was made like this before is kept.

    Args:
        workspace: run directory and model.
        settings: what to remove.
        redundancy: how to search where the importance file is missing or too short.
        removal: the blocks, where they are chosen already.
        windows: to heal on; None: the run's calibration.
        on_round: called for every round that has to be searched first.
        on_block: called for every block as it is healed.

    Raises:
        TargetError: target or block list out of range.
        OutputExistsError: the output directory holds something else.
        ArtifactError: an importance file or calibration of another model or other settings.
        ModelError: the model cannot be run block by block, or it does not compute the same without these blocks.
        NumericalError: activations or Gram matrices that healing cannot solve with.
        CheckpointError: the source's files are not whole, or a kept weight is NaN or infinite.
        LlmpruneError: the disk is full; what was there before is intact.
        VerificationError: the written checkpoint does not compute what the bypassed source does.
    """
    if settings.out is not None:  # checked before anything that takes long
        check_output(workspace, settings.out, force=settings.force)
    removal = removal or choose_removal(workspace, settings, redundancy, on_round)
    kept = kept_blocks(workspace.model.num_blocks, removal.removed)
    heal = settings.heal or _usual_healing(workspace, settings, removal)
    settings = replace(settings, heal=heal)
    out = settings.out or _default_out(workspace, removal, heal, len(kept))
    check_output(workspace, out, force=settings.force)
    open_check(workspace).require(kept)
    source = workspace.open_checkpoint()
    healing = None
    if heal is not Heal.NONE:
        workspace, healing = planned_healing(workspace, heal, kept, out, windows, replace=settings.force)
    held = healing.folder.held() if healing is not None else nullcontext()
    with workspace.run.recorded(workspace.record), held:
        check_output(workspace, out, force=settings.force)
        record = made_before(
            workspace,
            out,
            differs=partial(_other, removal, healing),
            verify=settings.verify,
            force=settings.force,
        )
        if record is None:
            healed = healing.run(workspace, on_block) if healing is not None else None
            repeatable = healing is None or healing.plan.text.is_kept_in(workspace.run.calibration)
            record = write_checkpoint(workspace, settings, source, removal, healed, out, repeatable=repeatable)
        if healing is not None:
            healing.remove_finished()
        workspace.run.remember_checkpoint(out, workspace.record)
    return RemovalReport(out, record, _stored_bytes(workspace, source))


def _usual_healing(workspace: Workspace, settings: RemovalSettings, removal: BlockRemoval) -> Heal:
    """What is healed where nothing was said: blocks that are good choices only when healed are not left unhealed."""
    if settings.blocks is not None or not removal.search_heals:
        return Heal.NONE
    workspace.progress.say(
        f"The search chose these blocks with healing, so `heal={Heal.ALL}` is taken; `heal={Heal.NONE}` leaves it out."
    )
    return Heal.ALL


def _stored_bytes(workspace: Workspace, source: Checkpoint) -> int:
    """Weight bytes of the whole source. Where shards were not downloaded, they are computed from its parameters."""
    if not source.elsewhere:
        return source.nbytes
    return workspace.model.num_parameters * stored_dtype(source).itemsize


def _other(removal: BlockRemoval, healing: RemovalHealing | None, record: PruningRecord) -> str | None:
    """How a record is of the removal of other blocks than these, or of another healing."""
    if record.removal is None:
        return "no blocks removed"
    found, asked = (", ".join(map(str, sorted(one.removed))) for one in (record.removal, removal))
    if found != asked:
        return f"blocks removed {found}, not {asked}"
    if record.healing is None:
        return None if healing is None else "not healed"
    return "healed" if healing is None else differences(record.healing.settings, healing.plan.settings)


def _default_out(workspace: Workspace, removal: BlockRemoval, heal: Heal, kept: int) -> Path:
    """The place of a result without ``--out``: named after the model and the blocks that stay."""
    name = workspace.model.own_name
    chosen = removal.metric or "-".join(map(str, sorted(removal.removed)))
    healed = "" if heal is Heal.NONE else f"-heal-{heal.value}"
    return workspace.run.path / f"{name}-{kept}of{workspace.model.num_blocks}-{chosen}{healed}"
