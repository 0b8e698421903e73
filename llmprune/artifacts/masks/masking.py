"""Laying a mask on a checkpoint's files: seeing that it fits, making weights zero, seeing that nothing else changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint
from llmprune.artifacts.checkpoints.copying import Change
from llmprune.artifacts.checkpoints.header import DTYPE_BITS, TensorEntry
from llmprune.artifacts.files.ranges import open_shards, read_into
from llmprune.artifacts.masks.mask import Mask, MaskedTensor, kept_elements, numbered_modules
from llmprune.errors import ArtifactError, VerificationError

_CHUNK = 1 << 20  # elements; a multiple of 8, so that every piece of a mask begins at a byte


def check_fits(mask: Mask, checkpoint: Checkpoint, *, called: Path | None = None) -> None:
    """See that a checkpoint has every weight of a mask in its shape, and as many blocks as the mask was made for.

    Args:
        mask: the mask.
        checkpoint: the checkpoint that it is to be laid on.
        called: what errors call the mask; None: its file.

    Raises:
        ArtifactError: it has not.
    """
    directory, called = checkpoint.directory, called or mask.path
    for name, tensor in mask.tensors.items():
        entry = checkpoint.tensors.get(name)
        if entry is None:
            raise ArtifactError(
                f"{called} masks {name:.100}, which {directory} does not have; a mask fits the model that it was "
                "made from and its fine-tuned siblings."
            )
        if entry.shape != tensor.shape:
            raise ArtifactError(
                f"{called} masks {name:.100} with shape {tensor.shape}, but in {directory} it has {entry.shape}; a "
                "mask fits the model that it was made from and its fine-tuned siblings."
            )
    _check_depth(mask, checkpoint, called)


@contextmanager
def zeroing(mask: Mask) -> Iterator[Change]:
    """What makes the masked weights zero in pieces of a checkpoint that the mask fits (``copy_tensors``).

    Raises:
        CheckpointError: the mask's file can no longer be read.
    """
    with open_shards([mask.path]) as masks:

        def zero(entry: TensorEntry, start: int, piece: NDArray[np.uint8]) -> None:
            if (tensor := mask.tensors.get(entry.name)) is None:
                return
            weights = piece.view(f"<u{_width(entry)}")
            first = start // weights.itemsize
            weights[~kept_elements(masks[mask.path], tensor, first, first + len(weights))] = 0

        yield zero


def require_masked(source: Checkpoint, written: Checkpoint, mask: Mask) -> None:
    """See in the files that ``written`` is zero where the mask says so, and ``source`` everywhere else, to the bit.

    Raises:
        VerificationError: a tensor is missing, or not what it should be.
        CheckpointError: a file can no longer be read.
    """
    paths = (*source.shards, *written.shards, mask.path)
    with open_shards(paths) as files:
        for name, entry in source.tensors.items():
            found = written.tensors.get(name)
            same = found is not None and (found.dtype, found.shape) == (entry.dtype, entry.shape)
            if found is None or not same or not _is_masked(files, entry, found, mask):
                raise VerificationError(f"{name:.100} was not written as it should be.")


def _check_depth(mask: Mask, checkpoint: Checkpoint, called: Path) -> None:
    counts = numbered_modules(checkpoint.tensors)
    for prefix, count in mask.numbered.items():
        if counts.get(prefix) != count:
            raise ArtifactError(
                f"{called} was made from {count} blocks ({prefix}0 to {prefix}{count - 1}), but "
                f"{checkpoint.directory} has {counts.get(prefix, 0)}; if blocks were removed before the mask was made, "
                "remove the same ones first: llmprune remove-blocks --blocks LIST"
            )


def _is_masked(files: Mapping[Path, FileIO], entry: TensorEntry, found: TensorEntry, mask: Mask) -> bool:
    tensor = mask.tensors.get(entry.name)
    pairs = zip(_pieces(files[entry.shard], entry), _pieces(files[found.shard], found), strict=True)
    for (first, before), (_, after) in pairs:
        kept = _kept(files[mask.path], tensor, first, len(before))
        if not np.where(kept, after == before, after == 0).all():
            return False
    return True


def _kept(file: FileIO, tensor: MaskedTensor | None, first: int, count: int) -> NDArray[np.bool_]:
    return np.ones(1, np.bool_) if tensor is None else kept_elements(file, tensor, first, first + count)


def _pieces(file: FileIO, entry: TensorEntry) -> Iterator[tuple[int, NDArray[np.unsignedinteger]]]:
    """Yield the index of a first element, and some elements from there on, as integers of their width."""
    width = _width(entry)
    for start in range(entry.start, entry.end, _CHUNK * width):
        piece = np.empty(min(_CHUNK * width, entry.end - start), np.uint8)
        read_into(file, start, piece.data)
        yield (start - entry.start) // width, piece.view(f"<u{width}")


def _width(entry: TensorEntry) -> int:
    """Bytes of an element; of packed dtypes, one."""
    return DTYPE_BITS[entry.dtype] // 8 or 1
