"""Finding NaN and infinities in stored weights, by their bits, without making floats of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from io import FileIO
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint, TensorEntry
from llmprune.artifacts.files.ranges import open_shards, read_into
from llmprune.errors import CheckpointError, NumericalError

_CHUNK = 1 << 20  # bytes: stays in a core's own cache, and is a multiple of every element size


class NonFiniteWeightsError(CheckpointError, NumericalError):
    """The weights that were given hold NaN or infinity: wrong input, so the command exits with 2."""


@dataclass(frozen=True)
class _Layout:
    """Where the codes of a float dtype that are not finite lie, seen as integers of its width.

    With the sign bit clear they are ``positive`` and above, with it set ``negative`` and above (unsigned), so
    the largest signed and the largest unsigned integer tell. None: no such codes.
    """

    width: int  # bytes
    positive: int | None
    negative: int | None


# Dtypes that are not here (integers, bool, F6, F4) have no code for NaN or infinity.
_LAYOUTS = {
    "F64": _Layout(8, 0x7FF0 << 48, 0xFFF0 << 48),
    "F32": _Layout(4, 0x7F80 << 16, 0xFF80 << 16),
    "C64": _Layout(4, 0x7F80 << 16, 0xFF80 << 16),
    "F16": _Layout(2, 0x7C00, 0xFC00),
    "BF16": _Layout(2, 0x7F80, 0xFF80),
    "F8_E5M2": _Layout(1, 0x7C, 0xFC),
    "F8_E4M3": _Layout(1, 0x7F, 0xFF),
    "F8_E8M0": _Layout(1, None, 0xFF),
}
_ONLY_NAN_IS_MINUS_ZERO = {"F8_E4M3FNUZ", "F8_E5M2FNUZ"}


def find_non_finite(checkpoint: Checkpoint, names: Iterable[str] | None = None) -> list[str]:
    """Name the tensors that hold NaN or infinity, of ``names`` or of all, in the order of their bytes.

    Reads 1 MiB at a time and stops reading a tensor at its first such element. Every float dtype of the
    format is understood; integer and packed dtypes are always finite.

    Raises:
        CheckpointError: a name that the checkpoint lacks, or a file that can no longer be read.
    """
    entries = list(checkpoint.tensors.values()) if names is None else [checkpoint.entry(name) for name in names]
    entries.sort(key=lambda entry: (entry.shard, entry.start))
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
    if entry.dtype not in _LAYOUTS and entry.dtype not in _ONLY_NAN_IS_MINUS_ZERO:
        return True
    buffer = np.empty(min(_CHUNK, entry.nbytes), np.uint8)
    for start in range(entry.start, entry.end, _CHUNK):
        piece = buffer[: entry.end - start]
        read_into(file, start, piece.data)
        if not _piece_is_finite(piece, entry.dtype):
            return False
    return True


def refuse_non_finite(names: list[str]) -> None:
    """Raise for tensors that `find_non_finite` found, if it found any.

    Raises:
        NonFiniteWeightsError: ``names`` is not empty.
    """
    if names:
        shown = ", ".join(name[:100] for name in names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
        raise NonFiniteWeightsError(f"NaN or infinity in the weights {shown}; get an intact copy of the model.")


def _piece_is_finite(piece: NDArray[np.uint8], dtype: str) -> bool:
    if dtype in _ONLY_NAN_IS_MINUS_ZERO:
        return not bool((piece == 0x80).any())
    layout = _LAYOUTS[dtype]
    if layout.positive is not None and piece.view(f"<i{layout.width}").max() >= layout.positive:
        return False
    return layout.negative is None or bool(piece.view(f"<u{layout.width}").max() < layout.negative)
