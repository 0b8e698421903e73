"""Which stored weights are zero, seen by their bits, without making floats of them."""

from __future__ import annotations

from collections.abc import Iterator
from io import FileIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmprune.artifacts.checkpoints.header import TensorEntry
from llmprune.artifacts.files.ranges import read_into
from llmprune.errors import CheckpointError

_CHUNK = 1 << 20  # bytes: stays in a core's own cache

# Elements seen as integers, and the bits that are clear in a zero: in floats all but the signs.
_ZERO_BITS: dict[str, np.unsignedinteger[Any]] = {
    "F64": np.uint64(0x7FFFFFFF_FFFFFFFF),
    "F32": np.uint32(0x7FFFFFFF),
    "F16": np.uint16(0x7FFF),
    "BF16": np.uint16(0x7FFF),
    **dict.fromkeys(("I64", "U64"), np.uint64(2**64 - 1)),
    **dict.fromkeys(("I32", "U32"), np.uint32(2**32 - 1)),
    **dict.fromkeys(("I16", "U16"), np.uint16(2**16 - 1)),
    **dict.fromkeys(("I8", "U8", "BOOL"), np.uint8(0xFF)),
}


def iter_zeros(file: FileIO, entry: TensorEntry, *, unit: int = 1) -> Iterator[NDArray[np.bool_]]:
    """Yield the elements of a tensor in row-major order, flat: True where one is zero, of either sign.

    Args:
        file: the open shard that holds it.
        entry: the tensor.
        unit: every piece but the last has a multiple of this many elements: about 1 MiB of them, or one unit.

    Raises:
        CheckpointError: a dtype that no model is accepted in, or the file became shorter.
    """
    if entry.dtype not in _ZERO_BITS:
        raise CheckpointError(f"The zeros of {entry.name!r:.100} cannot be counted: it is stored as {entry.dtype}.")
    return _pieces(file, entry, unit * max(1, _CHUNK // (unit * _ZERO_BITS[entry.dtype].itemsize)))


def _pieces(file: FileIO, entry: TensorEntry, elements: int) -> Iterator[NDArray[np.bool_]]:
    bits = _ZERO_BITS[entry.dtype]
    step = elements * bits.itemsize
    buffer = np.empty(min(step, entry.nbytes), np.uint8)
    for start in range(entry.start, entry.end, step):
        piece = buffer[: entry.end - start]
        read_into(file, start, piece.data)
        yield piece.view(bits.dtype.newbyteorder("<")) & bits == 0
