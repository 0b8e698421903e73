"""The zeros of a measured checkpoint: counted in its files, and compared with what its record claims."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from llmprune.algorithms.weights.patterns import SemiStructured, parse_pattern
from llmprune.artifacts.checkpoints.checkpoint import Checkpoint
from llmprune.artifacts.records.pruning import RECORD_NAME, PruningRecord
from llmprune.artifacts.records.weight_sparsity import WeightSparsity
from llmprune.artifacts.records.zeros_counted import SparsityReport
from llmprune.errors import ArtifactError
from llmprune.evaluation.sparsity import measure_sparsity


@dataclass(frozen=True)
class _Claim:
    """An N:M pattern that some matrices are said to have.

    Attributes:
        pattern: the pattern.
        names: names of the matrices.
        inputs_first: names of the matrices that are stored as (in, out).
    """

    pattern: SemiStructured
    names: tuple[str, ...]
    inputs_first: Container[str]


def count_zeros(checkpoint: Checkpoint) -> SparsityReport:
    """The zeros in a checkpoint, and where they break the N:M pattern that its record claims."""
    claim = _claim(checkpoint)
    if claim is None:
        return measure_sparsity(checkpoint)
    others = measure_sparsity(checkpoint, [name for name in checkpoint.tensors if name not in claim.names])
    claimed = measure_sparsity(checkpoint, claim.names, claim.pattern, inputs_first=claim.inputs_first)
    found = {tensor.name: tensor for tensor in (*others.tensors, *claimed.tensors)}
    return SparsityReport(pattern=claimed.pattern, tensors=tuple(found[name] for name in checkpoint.tensors))


def _claim(checkpoint: Checkpoint) -> _Claim | None:
    """The claim in ``llmprune.json``, if there is one. A file that cannot be read makes no claim."""
    try:
        record = PruningRecord.read(checkpoint.directory / RECORD_NAME)
    except ArtifactError:
        return None
    if record.sparsity is None or ":" not in record.sparsity.settings.pattern:
        return None
    return _claimed_by(record.sparsity, checkpoint)


def _claimed_by(sparsity: WeightSparsity, checkpoint: Checkpoint) -> _Claim:
    matrices = [matrix for block in sparsity.blocks for matrix in block.matrices if matrix.tensor in checkpoint.tensors]
    names = tuple(name for matrix in matrices for name in matrix.tensors)
    # A square matrix looks the same either way; but a model stores all of its matrices alike, and all of its stacks.
    turned: set[str] = set()
    for dimensions in (2, 3):
        alike = [one for one in matrices if len(checkpoint.tensors[one.tensor].shape) == dimensions]
        if any(checkpoint.tensors[one.tensor].shape[-2:] != (one.rows, one.columns) for one in alike):
            turned |= {name for one in alike for name in one.tensors}
    return _Claim(parse_pattern(sparsity.settings.pattern), names, frozenset(turned))
