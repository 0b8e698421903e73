"""Writing a checkpoint tensor by tensor, for weights that were changed in memory."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from llmprune.artifacts.checkpoints.header import build_header, check_name
from llmprune.artifacts.checkpoints.layout import (
    is_aligned_for_all,
    place_odd_last,
    refuse_existing_weights,
    shard_names,
    write_index,
)
from llmprune.artifacts.files.disk_space import explain_full_disk
from llmprune.artifacts.files.ranges import read_range, write_fully

_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_HEADER_ROOM = 256 << 10  # bytes kept free at the head of a shard whose tensors are not all known yet
_COMPACT_BELOW = 64 << 20  # bytes; a file smaller than this is rewritten without spare room in its header


@dataclass(frozen=True)
class _Stored:
    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int

    @property
    def header_bytes(self) -> int:
        """An upper bound of what the tensor adds to the header."""
        return 6 * len(self.name.encode()) + 22 * len(self.shape) + 128

    def fields(self) -> tuple[str, str, tuple[int, ...], int]:
        return self.name, self.dtype, self.shape, self.nbytes


class ShardWriter:
    """Write tensors as they come to safetensors shards that ``from_pretrained`` loads.

    A tensor's bytes go to the file at once, so that no more than the tensor itself is in memory. The files
    get their final names when the ``with`` block ends: ``model.safetensors``, or
    ``model-00001-of-0000N.safetensors`` and an index. After an exception nothing is left of them. For an
    output that is complete or absent, write into the folder that `atomic_directory` yields.

    Attributes:
        shards: the files, in order; set when the ``with`` block ends.
        nbytes: bytes of the tensors so far.
        num_parameters: elements of the tensors so far.
    """

    def __init__(self, directory: Path, *, max_shard_bytes: int, metadata: Mapping[str, str] | None = None) -> None:
        """Prepare to write into the existing folder ``directory``.

        Args:
            directory: holds no weights yet.
            max_shard_bytes: bytes of tensors a file; a larger tensor gets a file of its own.
            metadata: the header's free text, ``{"format": "pt"}`` by default.

        Raises:
            OutputExistsError: the folder holds weights.
        """
        refuse_existing_weights(directory)
        self.shards: tuple[Path, ...] = ()
        self.nbytes = 0
        self.num_parameters = 0
        self._directory = directory
        self._max_shard_bytes = max_shard_bytes
        self._metadata = {"format": "pt"} if metadata is None else dict(metadata)
        self._contents: list[list[_Stored]] = []  # of each shard, finished or not
        self._names: set[str] = set()
        self._shard: _OpenShard | None = None

    def add(self, name: str, tensor: Tensor) -> None:
        """Write ``tensor``, any shape, any dtype of safetensors, on any device, under ``name``.

        Raises:
            ValueError: the name was written already or is reserved, or safetensors has no such dtype.
            LlmpruneError: the disk is full.
        """
        check_name(name)
        if name in self._names:
            raise ValueError(f"The tensor {name!r} was written already.")
        if tensor.dtype not in _DTYPE_NAMES:
            raise ValueError(f"safetensors cannot hold {name!r}: its dtype is {tensor.dtype}.")
        stored = _Stored(name, _DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), tensor.nbytes)
        with explain_full_disk(self._directory):
            if self._shard is None or not self._shard.has_room(stored, self._max_shard_bytes):
                self._begin_shard(stored)
            assert self._shard is not None
            self._shard.write(stored, tensor)
        self._names.add(name)
        self.nbytes += stored.nbytes
        self.num_parameters += math.prod(stored.shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with explain_full_disk(self._directory):
                    self._finish()
        except BaseException:
            self._discard()
            raise
        if kind is not None:
            self._discard()

    def _partial(self, number: int) -> Path:
        return self._directory / f".shard-{number:05d}.partial"

    def _begin_shard(self, first: _Stored) -> None:
        self._finish_shard()
        path = self._partial(len(self._contents))
        self._contents.append([])
        self._shard = _OpenShard(path, self._contents[-1], self._metadata, first.header_bytes)

    def _finish_shard(self) -> None:
        if self._shard is not None:
            self._shard.finish()
            self._shard = None

    def _finish(self) -> None:
        if not self._contents:
            raise ValueError("No tensor was written: a checkpoint cannot be empty.")
        self._finish_shard()
        names = shard_names(len(self._contents))
        self.shards = tuple(self._directory / name for name in names)
        for number, shard in enumerate(self.shards):
            self._partial(number).rename(shard)
        if len(names) > 1:
            weight_map = {
                stored.name: name for name, content in zip(names, self._contents, strict=True) for stored in content
            }
            write_index(self._directory, weight_map, total_size=self.nbytes, total_parameters=self.num_parameters)

    def _discard(self) -> None:
        if self._shard is not None:
            self._shard.file.close()
        for path in (*map(self._partial, range(len(self._contents))), *self.shards):
            path.unlink(missing_ok=True)
        self.shards = ()


class _OpenShard:
    """One file being filled. Its header, at the head, is written last, into room that was left for it."""

    def __init__(self, path: Path, content: list[_Stored], metadata: Mapping[str, str], first: int) -> None:
        self._header_bytes = len(build_header([], metadata)) + 8
        self._room = -(-max(_HEADER_ROOM, self._header_bytes + first) // 8) * 8  # tensors begin aligned
        self.file: FileIO = path.open("x+b", buffering=0)
        self.file.seek(self._room)
        self._content = content
        self._metadata = metadata
        self._odd: list[tuple[_Stored, Tensor]] = []  # kept back: they would misalign what follows
        self._nbytes = 0

    def has_room(self, stored: _Stored, max_bytes: int) -> bool:
        fits = self._nbytes + stored.nbytes <= max_bytes
        return fits and self._header_bytes + stored.header_bytes <= self._room

    def write(self, stored: _Stored, tensor: Tensor) -> None:
        if is_aligned_for_all(stored.nbytes):
            write_fully(self.file, _tensor_bytes(tensor))
            self._content.append(stored)
        else:
            self._odd.append((stored, tensor.detach().to("cpu", copy=True)))
        self._nbytes += stored.nbytes
        self._header_bytes += stored.header_bytes

    def finish(self) -> None:
        for stored, tensor in place_odd_last(self._odd, dtype=lambda o: o[0].dtype, nbytes=lambda o: o[0].nbytes):
            write_fully(self.file, _tensor_bytes(tensor))
            self._content.append(stored)
        compact = self._nbytes < _COMPACT_BELOW
        content = read_range(self.file, self._room, self._room + self._nbytes) if compact else b""
        length = 0 if compact else self._room
        header = build_header((stored.fields() for stored in self._content), self._metadata, length=length)
        assert len(header) <= self._room
        self.file.seek(0)
        write_fully(self.file, header)
        if compact:
            write_fully(self.file, content)
            self.file.truncate()
        self.file.close()


def _tensor_bytes(tensor: Tensor) -> memoryview:
    """The elements of ``tensor`` in row-major order, as bytes; no copy where it is contiguous on the CPU."""
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().data
