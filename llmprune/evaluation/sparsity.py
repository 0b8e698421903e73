"""What is really zero in a checkpoint: counted in its files, whatever its record claims."""

from __future__ import annotations

from collections.abc import Container, Iterable
from io import FileIO
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from llmprune.algorithms.weights.patterns import Pattern, SemiStructured, check_fits
from llmprune.artifacts.checkpoints.checkpoint import Checkpoint, TensorEntry
from llmprune.artifacts.checkpoints.zeros import iter_zeros
from llmprune.artifacts.files.ranges import open_shards
from llmprune.artifacts.records.zeros_counted import SparsityReport, TensorSparsity


def measure_sparsity(
    checkpoint: Checkpoint,
    names: Iterable[str] | None = None,
    pattern: Pattern | None = None,
    *,
    inputs_first: Container[str] = (),
) -> SparsityReport:
    """Count what is zero in a checkpoint's tensors, and where an N:M pattern does not hold.

    Reads 1 MiB at a time, or as many whole rows as a group of the pattern needs. A tensor of more than two
    dimensions (experts, stored as one) counts as the matrix of its last dimension; one of fewer has neither
    rows nor columns.

    Args:
        checkpoint: the files.
        names: tensors to look at; None: all.
        pattern: an N:M pattern to look for in every matrix of ``names``, groups aligned to the row start.
            An unstructured one says nothing about single groups, so it is not looked for.
        inputs_first: names of matrices that are stored (in, out), as GPT-2's are; others are (out, in).

    Raises:
        CheckpointError: no tensor of such a name, a dtype that no model is accepted in, or a file that became shorter.
        TargetError: the inputs of a matrix are no multiple of the pattern's group.

    Example:
        >>> report = measure_sparsity(open_checkpoint(Path("my-model")), pattern=parse_pattern("2:4"))
        >>> report.ratio, report.violations
        (0.5, 0)
    """
    groups = pattern if isinstance(pattern, SemiStructured) else None
    entries = list(checkpoint.tensors.values()) if names is None else [checkpoint.entry(name) for name in names]
    entries.sort(key=lambda entry: (entry.shard, entry.start))
    tensors: list[TensorSparsity] = []
    for shard, inside in groupby(entries, key=lambda entry: entry.shard):
        with open_shards([shard]) as files:
            tensors += [
                _measure(files[shard], entry, groups, inputs_first=entry.name in inputs_first) for entry in inside
            ]
    return SparsityReport(pattern=str(groups) if groups else None, tensors=tuple(tensors))


def measure_model(model: nn.Module) -> SparsityReport:
    """Count what is zero in a model in memory, parameter by parameter, tied ones once.

    Matrices are looked at as they are stored: (out, in), or (in, out) as GPT-2's are.
    """
    tensors = [_measure_parameter(name, parameter.detach()) for name, parameter in model.named_parameters()]
    return SparsityReport(tensors=tuple(tensors))


def _measure_parameter(name: str, parameter: Tensor) -> TensorSparsity:
    zeros, shape = parameter == 0, tuple(parameter.shape)
    if len(shape) < 2:
        return TensorSparsity(name=name, shape=shape, parameters=zeros.numel(), zeros=int(zeros.sum()))
    matrix = zeros.flatten(0, -2)
    return TensorSparsity(
        name=name,
        shape=shape,
        parameters=zeros.numel(),
        zeros=int(zeros.sum()),
        zero_rows=int(matrix.all(dim=1).sum()),
        zero_columns=int(matrix.all(dim=0).sum()),
    )


def _measure(file: FileIO, entry: TensorEntry, pattern: SemiStructured | None, *, inputs_first: bool) -> TensorSparsity:
    if len(entry.shape) < 2 or not entry.numel:
        zeros = sum(int(piece.sum()) for piece in iter_zeros(file, entry))
        return TensorSparsity(name=entry.name, shape=entry.shape, parameters=entry.numel, zeros=zeros)
    return _measure_matrix(file, entry, pattern, inputs_first=inputs_first)


def _measure_matrix(
    file: FileIO, entry: TensorEntry, pattern: SemiStructured | None, *, inputs_first: bool
) -> TensorSparsity:
    """Count in a matrix as it is stored; what a row and a column mean is settled at the end."""
    columns = entry.shape[-1]
    zeros = empty_rows = violations = 0
    all_zero = np.ones(columns, np.bool_)
    if pattern is not None:
        check_fits(pattern, entry.numel // columns if inputs_first else columns)
    together = pattern.m if pattern is not None and inputs_first else 1
    for flat in iter_zeros(file, entry, unit=columns * together):
        piece = flat.reshape(-1, columns)
        zeros += int(piece.sum())
        empty_rows += int(piece.all(axis=1).sum())
        all_zero &= piece.all(axis=0)
        if pattern is not None:
            violations += _violations(piece.T if inputs_first else piece, pattern)
    empty_columns = int(all_zero.sum())
    return TensorSparsity(
        name=entry.name,
        shape=entry.shape,
        parameters=entry.numel,
        zeros=zeros,
        zero_rows=empty_columns if inputs_first else empty_rows,
        zero_columns=empty_rows if inputs_first else empty_columns,
        groups=entry.numel // pattern.m if pattern is not None else 0,
        violations=violations,
    )


def _violations(zeros: NDArray[np.bool_], pattern: SemiStructured) -> int:
    """Groups of ``zeros`` (outputs, inputs) in which too few are True."""
    counts = zeros.reshape(len(zeros), -1, pattern.m).sum(axis=2)
    return int((counts < pattern.n).sum())
