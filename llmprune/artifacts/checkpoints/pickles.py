"""Weights that PyTorch pickled (``pytorch_model.bin``): read without running code, and written anew as safetensors.

Files are found as transformers finds them: ``pytorch_model.bin``, else the shards that its index names. A pickle can
hold any program; ``torch.load(weights_only=True)`` knows tensors and plain containers alone and refuses the rest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile, is_zipfile

import torch
from torch import Tensor

from llmprune.artifacts.checkpoints.checkpoint import (
    PICKLED_INDEX_NAME,
    PICKLED_NAME,
    Checkpoint,
    open_checkpoint,
    read_weight_map,
    require_shards,
)
from llmprune.artifacts.checkpoints.header import build_header, is_tensor_name, refuse_git_lfs
from llmprune.artifacts.checkpoints.layout import place_odd_last, shard_names, write_index
from llmprune.artifacts.files.disk_space import require_free_space
from llmprune.artifacts.files.ranges import write_fully
from llmprune.errors import CheckpointError
from llmprune.quiet import quiet

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_UNPACKED = 50  # times the size of its file that a compressed one may have in memory; weights with 95% zeros take 10
_SMALL = 1 << 20  # bytes that are always read
_NEEDED = re.compile(r"GLOBAL ([\w.]+)")  # in torch's message about what a pickle needs and may not have


@dataclass(frozen=True)
class PickledTensor:
    """A tensor in a pickle.

    Attributes:
        name: its name.
        dtype: as safetensors writes it, such as ``"BF16"``.
        shape: in elements.
        nbytes: bytes of its elements.
        place: tensors of one file with the same place are the same bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    place: tuple[object, ...]


@dataclass(frozen=True)
class Pickles:
    """The pickled weights in a folder.

    Attributes:
        shards: the files, sorted by name, and what each holds, in its order.
    """

    shards: dict[Path, tuple[PickledTensor, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor's name."""
        return tuple(tensor.name for tensors in self.shards.values() for tensor in tensors)

    @property
    def shared(self) -> list[set[str]]:
        """The names of every tensor that has several."""
        groups: dict[object, set[str]] = {}
        for path, tensors in self.shards.items():
            for tensor in tensors:
                groups.setdefault((path, tensor.place), set()).add(tensor.name)
        return [names for names in groups.values() if len(names) > 1]


def open_pickles(directory: Path) -> Pickles:
    """See what the pickles of ``directory`` hold. One file at a time is open, and mapped where it can be.

    Raises:
        CheckpointError: one is missing, cut off, or needs more than tensors, two hold the same tensor, or the index is
            malformed or names files outside its folder.
    """
    single, index = directory / PICKLED_NAME, directory / PICKLED_INDEX_NAME
    names = {PICKLED_NAME} if single.exists() else set(read_weight_map(index).values())
    paths = tuple(directory / name for name in sorted(names))
    require_shards(paths, index)
    shards: dict[Path, tuple[PickledTensor, ...]] = {}
    found: dict[str, Path] = {}
    for path in paths:
        shards[path] = tuple(_described(name, tensor) for name, tensor in _read(path).items())
        for tensor in shards[path]:
            if tensor.name in found:
                first = found[tensor.name].name
                raise CheckpointError(f"The tensor {tensor.name!r:.100} is in {path} and again in {first}.")
            found[tensor.name] = path
    if not found:
        raise CheckpointError(f"{paths[0]} holds no tensors.")
    return Pickles(shards)


def lay_out(pickles: Pickles, directory: Path, *, left_out: Container[str]) -> Checkpoint:
    """Make safetensors files for the tensors of pickles, one for each, whose bytes are still to be filled in.

    Args:
        pickles: the tensors.
        directory: an existing folder without weights.
        left_out: names of tensors that get no place.

    Raises:
        LlmpruneError: the disk has no room for them.
    """
    runs = [[tensor for tensor in tensors if tensor.name not in left_out] for tensors in pickles.shards.values()]
    kept = [run for run in runs if run]
    total = sum(tensor.nbytes for run in kept for tensor in run)
    require_free_space(directory, total)
    files = dict(zip(shard_names(len(kept)), kept, strict=True))
    for name, tensors in files.items():
        run = place_odd_last(tensors, dtype=lambda tensor: tensor.dtype, nbytes=lambda tensor: tensor.nbytes)
        header = build_header(((t.name, t.dtype, t.shape, t.nbytes) for t in run), {"format": "pt"})
        with (directory / name).open("xb") as file:
            file.write(header)
            file.truncate(len(header) + sum(tensor.nbytes for tensor in run))
    if len(files) > 1:
        weight_map = {tensor.name: name for name, run in files.items() for tensor in run}
        count = sum(math.prod(tensor.shape) for run in kept for tensor in run)
        write_index(directory, weight_map, total_size=total, total_parameters=count)
    return open_checkpoint(directory)


def fill_in(pickles: Pickles, checkpoint: Checkpoint) -> None:
    """Write the tensors' bytes into the files that `lay_out` made: one pickle at a time, one tensor in memory.

    Raises:
        CheckpointError: a pickle can no longer be read.
        OSError: writing failed.
    """
    for path, tensors in pickles.shards.items():
        held = _read(path)
        entries = [checkpoint.tensors[tensor.name] for tensor in tensors if tensor.name in checkpoint.tensors]
        for entry in entries:
            with entry.shard.open("r+b", buffering=0) as file:
                file.seek(entry.start)
                write_fully(file, _bytes(held[entry.name]))


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors in a pickle, by name: views of the mapped file, or in memory where torch cannot map it."""
    refuse_git_lfs(path)
    try:
        _refuse_bomb(path)
        with quiet():
            held = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_mappable(path))
    except CheckpointError:
        raise
    except Exception as error:  # a file of any content may upset its reader in any way
        raise CheckpointError(_explain(path, error)) from error
    if not isinstance(held, dict):
        raise CheckpointError(f"{path} holds a {type(held).__name__}; tensors by their names were expected.")
    for name, value in held.items():
        if not is_tensor_name(name):
            raise CheckpointError(f"{path} holds something called {name!r:.100}; a tensor's name was expected.")
        if not _is_plain(value):
            raise CheckpointError(
                f"{path} needs more than plain tensors: its {name!r:.100} is {_kind(value)}; get the file of the "
                "weights alone, as torch.save(model.state_dict()) makes it."
            )
        if value.nbytes > max(stored := value.untyped_storage().nbytes(), _SMALL):
            raise CheckpointError(
                f"{path} says that its {name!r:.100} has {value.nbytes:,} bytes, but stores {stored:,}; save it as "
                "tensor.contiguous()."
            )
    return held


def _refuse_bomb(path: Path) -> None:
    """See that a compressed file unpacks to a size that weights can have.

    Raises:
        CheckpointError: it does not.
    """
    if not is_zipfile(path):
        return
    with ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist() if member.compress_type != ZIP_STORED)
    packed = path.stat().st_size
    if unpacked > max(_UNPACKED * packed, _SMALL):
        raise CheckpointError(
            f"{path} has {packed:,} bytes and would unpack to {unpacked:,}, which weights do not; save them again "
            "without compression, as torch.save does."
        )


def _is_mappable(path: Path) -> bool:
    """Whether torch can map the file: neither in its format of before 2020, nor compressed, which it does not tell."""
    if not is_zipfile(path):
        return False
    with ZipFile(path) as archive:
        return all(member.compress_type == ZIP_STORED for member in archive.infolist())


def _is_plain(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.dtype in _DTYPES
        and value.device.type == "cpu"
    )


def _kind(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    layout = "" if value.layout is torch.strided else f" {value.layout}".replace("torch.", "")
    return f"a{layout} tensor of {value.dtype} on the device {value.device.type}".replace("torch.", "")


def _explain(path: Path, error: Exception) -> str:
    if (needed := _NEEDED.search(str(error))) is not None:
        return (
            f"{path} needs {needed[1]}, more than tensors: it could run code, and is not read; get the model as "
            "safetensors, or the file of the weights alone, as torch.save(model.state_dict()) makes it."
        )
    return f"{path} is cut off, or no file of tensors that torch.save wrote; download it again."


def _described(name: str, tensor: Tensor) -> PickledTensor:
    where = (tensor.data_ptr(), tensor.stride()) if tensor.nbytes else name
    shape = tuple(tensor.shape)
    return PickledTensor(name, _DTYPES[tensor.dtype], shape, tensor.nbytes, (where, tensor.dtype, shape))


def _bytes(tensor: Tensor) -> memoryview:
    plain = tensor.detach().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().data
