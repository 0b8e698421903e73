"""Tensors read into memory of their own, and looked at for NaN and infinity while they are there."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint
from llmprune.artifacts.checkpoints.finiteness import read_finite, refuse_non_finite
from llmprune.artifacts.files.ranges import open_shards, read_into

_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "BOOL": torch.bool,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "C64": torch.complex64,
}
_ALIGNED = 64  # bytes, as torch's own memory is
_LARGE = 32 << 20  # bytes that the C library always takes from the system, and gives back to it


def read_tensors(
    checkpoint: Checkpoint, names: Iterable[str], *, known: Container[str] = (), pinned: bool = False
) -> dict[str, Tensor]:
    """Read tensors as they are stored, each byte once; the file may change afterwards.

    It can run in a thread beside computing: most of its time is spent outside the interpreter.

    Args:
        checkpoint: where they are.
        names: of the tensors.
        known: names of those that are known to be finite.
        pinned: into memory that a device can copy from by itself.

    Raises:
        NonFiniteWeightsError: there is NaN or infinity among them.
        CheckpointError: a name that the checkpoint lacks, or a file that can no longer be read.
    """
    entries = sorted((checkpoint.entry(name) for name in names), key=lambda entry: (entry.shard, entry.start))
    tensors: dict[str, Tensor] = {}
    bad: list[str] = []
    with open_shards(dict.fromkeys(entry.shard for entry in entries)) as files:
        for entry, content in zip(entries, _memory([entry.nbytes for entry in entries], pinned=pinned), strict=True):
            if entry.name in known:
                read_into(files[entry.shard], entry.start, content.numpy().data)
            elif not read_finite(files[entry.shard], entry, content.numpy()):
                bad.append(entry.name)
            tensors[entry.name] = content.view(_DTYPES[entry.dtype]).view(entry.shape)
    refuse_non_finite(bad)
    return tensors


def _memory(sizes: Sequence[int], *, pinned: bool) -> list[Tensor]:
    """Room for tensors of so many bytes, uint8.

    Small ones share one piece: what is large is given back to the system at once, where many small pieces would stay.
    Those that are large by themselves can be given back one by one.
    """
    shared = [pinned or nbytes < _LARGE for nbytes in sizes]
    room = [
        -(-nbytes // _ALIGNED) * _ALIGNED if together else 0 for nbytes, together in zip(sizes, shared, strict=True)
    ]
    starts = [0, *accumulate(room)]
    piece = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=pinned)
    return [
        piece[start : start + nbytes] if together else torch.empty(nbytes, dtype=torch.uint8)
        for start, nbytes, together in zip(starts, sizes, shared, strict=False)
    ]
