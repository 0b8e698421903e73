"""What is recorded of a block's pruned layers."""

from __future__ import annotations

from collections.abc import Iterator

from llmprune.algorithms.feed_forward.sparsellm import FfnResult
from llmprune.algorithms.weights.pruned import PrunedWeight
from llmprune.artifacts.records.weight_sparsity import BlockRecord, ExpertsRecord, FfnRecord, MatrixRecord
from llmprune.models.block_linears import LinearSlot
from llmprune.stages.weight_pruning.block import PrunedBlock
from llmprune.stages.weight_pruning.experts import PrunedExperts
from llmprune.stages.weight_pruning.steps import BlockSteps


def block_record(
    block: int, steps: BlockSteps, pruned: PrunedBlock, output_error: float | None, seconds: float
) -> BlockRecord:
    """What ``llmprune.json`` keeps of a pruned block."""
    return BlockRecord(
        block=block,
        matrices=(
            *(_matrix(steps.slots[path], layer, unseen=path in pruned.unseen) for path, layer in pruned.layers.items()),
            *(matrix for experts in pruned.experts for matrix in _matrices_of(experts)),
        ),
        ffn=_ffn(pruned.ffn),
        output_error=output_error,
        seconds=seconds,
        experts=tuple(_experts(experts) for experts in pruned.experts),
    )


def _matrix(slot: LinearSlot, layer: PrunedWeight, *, unseen: bool) -> MatrixRecord:
    return MatrixRecord(
        tensor=slot.tensor,
        kind=slot.path,
        rows=slot.out_features,
        columns=slot.in_features,
        zeros=layer.zeros,
        error=layer.relative_error,
        damping=layer.damping,
        unseen=unseen,
    )


def _ffn(result: FfnResult | None) -> FfnRecord | None:
    if result is None:
        return None
    return FfnRecord(errors=result.relative_errors, kept=result.best.index)


def _matrices_of(pruned: PrunedExperts) -> Iterator[MatrixRecord]:
    """One record for each matrix that the experts have."""
    for matrix in pruned.step.experts.experts.matrices:
        if numbers := pruned.numbers.get(matrix.path):
            names = tuple(dict.fromkeys(matrix.slot(expert).tensor for expert in numbers))
            energy = sum(one.energy for one in numbers.values())
            yield MatrixRecord(
                tensor=names[0],
                kind=matrix.path,
                rows=matrix.out_features,
                columns=matrix.in_features,
                zeros=sum(one.zeros for one in numbers.values()),
                error=sum(one.error for one in numbers.values()) / (energy or 1.0),
                damping=max(one.damping for one in numbers.values()),
                experts=len(numbers),
                others=names[1:],
                unseen=matrix.path in pruned.unseen,
            )


def _experts(pruned: PrunedExperts) -> ExpertsRecord:
    ffns = tuple(pruned.ffns[expert] for expert in sorted(pruned.ffns))
    return ExpertsRecord(path=pruned.step.path, tokens=pruned.tokens, shared=pruned.shared, ffns=ffns)


def few_tokens(record: BlockRecord) -> list[str]:
    """A remark where experts were sent too few tokens."""
    return [
        f"{len(experts.shared)} of {len(experts.tokens)} experts of block {record.block} were sent fewer tokens than "
        "a matrix of theirs has inputs, and are pruned on tokens of all experts"
        for experts in record.experts
        if experts.shared
    ]


def unseen_inputs(record: BlockRecord) -> list[str]:
    """A remark for each matrix whose inputs were all zero."""
    return [
        f"{matrix.tensor}: its inputs were all zero on the calibration text, so it is pruned by magnitude"
        for matrix in record.matrices
        if matrix.unseen
    ]


def widened_factors(pruned: PrunedBlock, steps: BlockSteps) -> list[str]:
    """A remark for each matrix whose Gram matrix the device could not factor in its dtype."""
    layers = [steps.slots[path].tensor for path, layer in pruned.layers.items() if layer.widened]
    experts = [
        f"{path}, expert {expert}"
        for one in pruned.experts
        for path, numbers in one.numbers.items()
        for expert, number in numbers.items()
        if number.widened
    ]
    return [f"{name}: its Gram matrix was factored in float64 on the CPU" for name in (*layers, *experts)]


def raised_dampings(record: BlockRecord, *, asked: float) -> list[str]:
    """A remark for each matrix whose factorisation took more damping than was asked for."""
    return [
        f"{matrix.tensor}: the damping had to be raised from {asked:g} to {matrix.damping:g}"
        for matrix in record.matrices
        if matrix.damping > asked
    ]
