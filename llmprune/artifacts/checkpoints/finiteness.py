"""Finding NaN and infinities in stored weights, by their bits, without making floats of them."""

from collections.abc import Iterable
from io import FileIO
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint, TensorEntry
from llmprune.artifacts.files.ranges import open_shards, read_into
from llmprune.errors import CheckpointError, NumericalError
from llmprune.spelling import listed

_CHUNK = 1 << 20  # bytes: stays in a core's own cache, and is a multiple of every element size


class NonFiniteWeightsError(CheckpointError, NumericalError):
    """The weights that were given hold NaN or infinity: wrong input, so the command exits with 2."""


# Bytes of an element, and the code of infinity as an integer. The exponent of a float that is not finite has all its
# bits set, so such codes are this one and above where the sign bit is clear: the largest signed integer of a piece
# tells. Where it is set, the largest unsigned integer does.
_INFINITY = {"F64": (8, 0x7FF0 << 48), "F32": (4, 0x7F80 << 16), "F16": (2, 0x7C00), "BF16": (2, 0x7F80)}


def find_non_finite(checkpoint: Checkpoint, names: Iterable[str]) -> list[str]:
    """Name the tensors among ``names`` that hold NaN or infinity, in the order of their bytes.

    Reads 1 MiB at a time and stops reading a tensor at its first such element. Integers are always finite. No
    floats but those of 16, 32 and 64 bits are looked at: a model with weights in others is refused.

    Raises:
        CheckpointError: a name that the checkpoint lacks, or a file that can no longer be read.
    """
    entries = sorted((checkpoint.entry(name) for name in names), key=lambda entry: (entry.shard, entry.start))
    found: list[str] = []
    for shard, group in groupby(entries, key=lambda entry: entry.shard):
        with open_shards([shard]) as files:
            found += [entry.name for entry in group if not is_finite(files[shard], entry)]
    return found


def is_finite(file: FileIO, entry: TensorEntry) -> bool:
    """Whether the tensor ``entry`` of the open shard ``file`` holds neither NaN nor infinity.

    Raises:
        CheckpointError: the file became shorter.
    """
    buffer = np.empty(min(_CHUNK, entry.nbytes), np.uint8)
    for start in range(entry.start, entry.end, _CHUNK):
        piece = buffer[: entry.end - start]
        read_into(file, start, piece.data)
        if not piece_is_finite(piece, entry.dtype):
            return False
    return True


def read_finite(file: FileIO, entry: TensorEntry, content: NDArray[np.uint8]) -> bool:
    """Read the whole tensor ``entry`` into ``content`` (nbytes,); whether it holds neither NaN nor infinity.

    Each piece is looked at while it is still in the core's cache.

    Raises:
        CheckpointError: the file became shorter.
    """
    finite = True
    for start in range(0, entry.nbytes, _CHUNK):
        piece = content[start : start + _CHUNK]
        read_into(file, entry.start + start, piece.data)
        finite = finite and piece_is_finite(piece, entry.dtype)
    return finite


def refuse_non_finite(names: list[str]) -> None:
    """Raise for tensors that `find_non_finite` found, if it found any.

    Raises:
        NonFiniteWeightsError: ``names`` is not empty.
    """
    if names:
        shown = listed([name[:100] for name in names])
        raise NonFiniteWeightsError(f"NaN or infinity in the weights {shown}; get an intact copy of the model.")


def piece_is_finite(piece: NDArray[np.uint8], dtype: str) -> bool:
    """Whether a piece of a tensor, whole elements as bytes, holds neither NaN nor infinity."""
    if dtype not in _INFINITY:
        return True
    width, infinity = _INFINITY[dtype]
    negative_infinity = infinity | 1 << (8 * width - 1)
    return bool(piece.view(f"<i{width}").max() < infinity and piece.view(f"<u{width}").max() < negative_infinity)
