"""The last step of every stage that writes a checkpoint: it is verified, then its record and card are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from llmprune.artifacts.records.pruning import PruningRecord
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.output.record import write_record
from llmprune.stages.output.verification import verify_checkpoint


def finish_checkpoint(
    workspace: Workspace,
    partial: Path,
    record: PruningRecord,
    *,
    verify: bool,
    removed: Sequence[int] = (),
    weights: Sequence[Path] = (),
    experts: Mapping[int, Sequence[int]] | None = None,
) -> PruningRecord:
    """Verify a checkpoint if that is asked for, and write ``llmprune.json`` and the card beside its weights.

    Args:
        workspace: the source model, and what is computed in.
        partial: the new checkpoint, with all but its record and card.
        record: what is known of it.
        verify: whether to compare it with the source; ``verify_checkpoint`` says what the other arguments are.
        removed: the blocks that it lacks.
        weights: files of the tensors in which it differs from the source.
        experts: for each block, the experts that it lacks.

    Returns:
        The record with what was seen.

    Raises:
        VerificationError: it does not compute what it should.
        ModelError: the source would have to be loaded whole for that, and cannot be.
        LlmpruneError: the disk is full.
    """
    if verify:
        seen = verify_checkpoint(workspace, partial, removed=removed, weights=weights, experts=experts)
        record = record.model_copy(update={"verification": seen})
    write_record(workspace, record, partial)
    return record
