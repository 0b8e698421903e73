"""What is recorded of a block's pruned layers."""

from __future__ import annotations

from llmprune.algorithms.feed_forward.sparsellm import FfnResult
from llmprune.algorithms.weights.pruned import PrunedWeight
from llmprune.artifacts.records.weight_sparsity import BlockRecord, FfnRecord, MatrixRecord
from llmprune.models.block_linears import LinearSlot
from llmprune.stages.weight_pruning.block import BlockSteps, PrunedBlock


def block_record(
    block: int, steps: BlockSteps, pruned: PrunedBlock, output_error: float | None, seconds: float
) -> BlockRecord:
    """What ``llmprune.json`` keeps of a pruned block."""
    return BlockRecord(
        block=block,
        matrices=tuple(_matrix(steps.slots[path], layer) for path, layer in pruned.layers.items()),
        ffn=_ffn(pruned.ffn),
        output_error=output_error,
        seconds=seconds,
    )


def _matrix(slot: LinearSlot, layer: PrunedWeight) -> MatrixRecord:
    return MatrixRecord(
        tensor=slot.tensor,
        kind=slot.path,
        rows=slot.out_features,
        columns=slot.in_features,
        zeros=layer.zeros,
        error=layer.relative_error,
        damping=layer.damping,
    )


def _ffn(result: FfnResult | None) -> FfnRecord | None:
    if result is None:
        return None
    energy = result.best.energy or 1.0
    return FfnRecord(errors=tuple(error / energy for error in result.errors), kept=result.best.index)


def raised_dampings(record: BlockRecord, *, asked: float) -> list[str]:
    """A remark for each matrix whose factorisation took more damping than was asked for."""
    return [
        f"{matrix.tensor}: the damping had to be raised from {asked:g} to {matrix.damping:g}"
        for matrix in record.matrices
        if matrix.damping > asked
    ]
