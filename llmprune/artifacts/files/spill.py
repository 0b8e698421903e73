"""Working tensors of a stage: in memory as far as a budget goes, the rest in files of a scratch folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llmprune.artifacts.files.disk_space import explain_full_disk


@dataclass(frozen=True)
class _Spilled:
    """A tensor in a file: where its bytes begin, and what they are."""

    start: int
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


class SpillingStore:
    """Groups of tensors by key. What is read back is what was put, on the device it was on.

    Args:
        folder: where files go; it must exist, and what is left in it is the caller's to remove.
        budget: bytes that may stay in memory.
    """

    def __init__(self, folder: Path, *, budget: int) -> None:
        self._folder = folder
        self._budget = budget
        self._kept: dict[str, dict[str, Tensor]] = {}
        self._spilled: dict[str, dict[str, _Spilled]] = {}

    def put(self, key: str, tensors: Mapping[str, Tensor], *, keep: bool = True) -> None:
        """Keep ``tensors``, in place of what ``key`` stood for.

        Where memory holds tensors of the same shapes under ``key``, these are written over, and stay where they are:
        memory that is given back and taken again and again falls into pieces.

        Args:
            key: what stands for them.
            tensors: by name.
            keep: in memory, if it has room for them.

        Raises:
            LlmpruneError: the disk is full.
        """
        if keep and _are_alike(self._kept.get(key, {}), tensors):
            with torch.inference_mode():  # what was put may be an inference tensor
                for name, kept in self._kept[key].items():
                    kept.copy_(tensors[name])
            return
        self.drop(key)
        if keep and self.kept_bytes + _nbytes(tensors) <= self._budget:
            self._kept[key] = dict(tensors)
            return
        with explain_full_disk(self._folder), self._path(key).open("wb") as file:
            places: dict[str, _Spilled] = {}
            for name, tensor in tensors.items():
                places[name] = _Spilled(file.tell(), tensor.shape, tensor.dtype, tensor.device)
                file.write(_bytes_of(tensor.cpu().contiguous()).data)
        self._spilled[key] = places

    def put_if_room(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep ``tensors`` if memory has room for them; no file is written for them, and what was there is dropped."""
        self.drop(key)
        if tensors and self.kept_bytes + _nbytes(tensors) <= self._budget:
            self._kept[key] = dict(tensors)

    def __contains__(self, key: str) -> bool:
        """Whether anything is kept under ``key``."""
        return key in self._kept or key in self._spilled

    def get(self, key: str) -> dict[str, Tensor]:
        """What was put under ``key``."""
        if key in self._kept:
            return self._kept[key]
        tensors: dict[str, Tensor] = {}
        with self._path(key).open("rb") as file:
            for name, place in self._spilled[key].items():
                tensor = torch.empty(place.shape, dtype=place.dtype)
                file.seek(place.start)
                file.readinto(_bytes_of(tensor).data)
                tensors[name] = tensor.to(place.device)
        return tensors

    def rows(self, key: str, rows: Tensor) -> dict[str, Tensor]:
        """Some rows (int64 indices) of what was put under ``key``. Of a file, only their pages are read."""
        if key in self._kept:
            return {name: tensor[rows] for name, tensor in self._kept[key].items()}
        found: dict[str, Tensor] = {}
        for name, place in self._spilled[key].items():
            nbytes = place.shape.numel() * place.dtype.itemsize
            mapped = np.memmap(self._path(key), np.uint8, mode="c", offset=place.start, shape=(nbytes,))
            whole = torch.from_numpy(mapped).view(place.dtype).view(place.shape)
            found[name] = whole[rows.cpu()].to(place.device)
        return found

    def drop(self, key: str) -> None:
        """Forget ``key``, if it is there."""
        self._kept.pop(key, None)
        if self._spilled.pop(key, None) is not None:
            self._path(key).unlink()

    @property
    def kept_bytes(self) -> int:
        """Bytes in memory."""
        return sum(_nbytes(tensors) for tensors in self._kept.values())

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.scratch"


def _bytes_of(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The memory of a contiguous tensor on the CPU."""
    return tensor.view(-1).view(torch.uint8).numpy()


def _are_alike(kept: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> bool:
    """Whether there are tensors in memory that others can be written over."""
    return kept.keys() == tensors.keys() and all(
        (kept[name].shape, kept[name].dtype, kept[name].device) == (new.shape, new.dtype, new.device)
        for name, new in tensors.items()
    )


def _nbytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
