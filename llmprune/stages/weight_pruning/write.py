"""The last step of ``global-prune``: pruned and other weights in one checkpoint, zeros counted, result verified."""

from __future__ import annotations

from pathlib import Path

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint, open_checkpoint
from llmprune.artifacts.records.pruning import PruningRecord
from llmprune.artifacts.records.weight_sparsity import SparsitySettings, WeightSparsity
from llmprune.evaluation.sparsity import measure_sparsity
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.output.finish import finish_checkpoint
from llmprune.stages.output.place import new_checkpoint
from llmprune.stages.output.record import new_record
from llmprune.stages.output.whole_copy import copy_whole
from llmprune.stages.weight_pruning.settings import PruningSettings
from llmprune.stages.weight_pruning.state import PruningPassState


def write_checkpoint(
    workspace: Workspace,
    settings: PruningSettings,
    recorded: SparsitySettings,
    state: PruningPassState,
    *,
    folder: Path,
    out: Path,
    zeros_before: int,
    command: str | None,
) -> PruningRecord:
    """Put the pruned and all other weights into one checkpoint, count its zeros, and verify it.

    Args:
        workspace: the source model.
        settings: how it was pruned.
        recorded: the same settings as they are recorded.
        state: of a finished pass.
        folder: where the pass left the finished weights.
        out: the new checkpoint, all of it or nothing.
        zeros_before: zeros that the source has in the pruned matrices.
        command: that makes it again; None: there is none.

    Raises:
        OutputExistsError: ``out`` holds something else.
        CheckpointError: the source's files are not whole.
        VerificationError: the written checkpoint does not compute what it should.
        LlmpruneError: the disk is full.
    """
    source = open_checkpoint(workspace.directory)
    weights = [folder / name for name in state.weights]
    with new_checkpoint(out, force=settings.force) as partial:
        overlaid = source.overlaid(weights)
        copied = copy_whole(workspace, overlaid, partial, max_shard_bytes=settings.max_shard_bytes)
        sparsity = _measured(open_checkpoint(partial), recorded, state, zeros_before)
        record = new_record(workspace, copied, sparsity=sparsity, command=command, environment=state.environment)
        return finish_checkpoint(workspace, partial, record, verify=settings.verify, weights=weights)


def _measured(
    written: Checkpoint, recorded: SparsitySettings, state: PruningPassState, zeros_before: int
) -> WeightSparsity:
    """The result, with the zeros counted in the written files."""
    matrices = [matrix for block in state.blocks for matrix in block.matrices]
    counted = measure_sparsity(written, [name for matrix in matrices for name in matrix.tensors])
    return WeightSparsity(
        settings=recorded,
        blocks=state.blocks,
        remarks=state.remarks,
        zeros_before=zeros_before,
        zeros=counted.zeros,
        numel=counted.parameters,
        seconds=sum(block.seconds for block in state.blocks),
    )
