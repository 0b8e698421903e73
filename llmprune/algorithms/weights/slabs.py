"""Rows of a large matrix at a time: what is worked out for each row on its own takes the memory of a slab."""

from collections.abc import Iterator

from torch import Tensor

SLAB = 1 << 22  # numbers: all of a matrix of a small model, 381 rows of the widest of Llama-2-7B's


def slabs(matrix: Tensor) -> Iterator[slice]:
    """Slices that have all rows of a matrix (rows, columns) together. They do not depend on what memory is free."""
    rows = max(1, SLAB // max(1, matrix.shape[1]))
    for start in range(0, len(matrix), rows):
        yield slice(start, min(start + rows, len(matrix)))
