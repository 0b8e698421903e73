"""What is really zero in a checkpoint: counted in its files, whatever its record claims."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from io import FileIO
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmprune.algorithms.patterns import Pattern, SemiStructured, check_fits
from llmprune.artifacts.checkpoint import Checkpoint, TensorEntry
from llmprune.artifacts.ranges import open_shards, read_into
from llmprune.artifacts.sparsity import SparsityReport, TensorSparsity
from llmprune.errors import CheckpointError

_CHUNK = 1 << 20  # bytes: stays in a core's own cache

# Elements seen as integers, and the bits that are clear in a zero: in floats all but the signs.
_ZERO_BITS: dict[str, np.unsignedinteger[Any]] = {
    "F64": np.uint64(0x7FFFFFFF_FFFFFFFF),
    "F32": np.uint32(0x7FFFFFFF),
    "C64": np.uint64(0x7FFFFFFF_7FFFFFFF),
    "F16": np.uint16(0x7FFF),
    "BF16": np.uint16(0x7FFF),
    "F8_E4M3": np.uint8(0x7F),
    "F8_E5M2": np.uint8(0x7F),
    "F8_E4M3FNUZ": np.uint8(0xFF),  # what would be -0 is NaN
    "F8_E5M2FNUZ": np.uint8(0xFF),
    **dict.fromkeys(("I64", "U64"), np.uint64(2**64 - 1)),
    **dict.fromkeys(("I32", "U32"), np.uint32(2**32 - 1)),
    **dict.fromkeys(("I16", "U16"), np.uint16(2**16 - 1)),
    **dict.fromkeys(("I8", "U8", "BOOL"), np.uint8(0xFF)),
}


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
        CheckpointError: a name that the checkpoint lacks, a packed dtype, or a file that can no longer be read.
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


def _measure(file: FileIO, entry: TensorEntry, pattern: SemiStructured | None, *, inputs_first: bool) -> TensorSparsity:
    if entry.dtype not in _ZERO_BITS:
        raise CheckpointError(f"The zeros of {entry.name!r:.100} cannot be counted: it is packed as {entry.dtype}.")
    if len(entry.shape) < 2 or not entry.numel:
        zeros = sum(int(piece.sum()) for piece in _zeros(file, entry, columns=1))
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
    for piece in _zeros(file, entry, columns=columns, together=together):
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


def _zeros(file: FileIO, entry: TensorEntry, *, columns: int, together: int = 1) -> Iterator[NDArray[np.bool_]]:
    """Yield (rows, columns), True where an element is zero: ``together`` rows at a time, or a multiple of them."""
    bits = _ZERO_BITS[entry.dtype]
    unit = columns * together * bits.itemsize
    step = unit * max(1, _CHUNK // max(1, unit))
    buffer = np.empty(min(step, entry.nbytes), np.uint8)
    for start in range(entry.start, entry.end, max(1, step)):
        piece = buffer[: entry.end - start]
        read_into(file, start, piece.data)
        yield (piece.view(bits.dtype.newbyteorder("<")) & bits == 0).reshape(-1, columns)


def _violations(zeros: NDArray[np.bool_], pattern: SemiStructured) -> int:
    """Groups of ``zeros`` (outputs, inputs) in which too few are True."""
    counts = zeros.reshape(len(zeros), -1, pattern.m).sum(axis=2)
    return int((counts < pattern.n).sum())
