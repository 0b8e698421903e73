"""Working tensors of a stage: in memory as far as a budget goes, the rest in files of a scratch folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from llmprune.artifacts.files.disk_space import explain_full_disk


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
        self._spilled: dict[str, str] = {}  # key -> device

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep ``tensors``, in place of what ``key`` stood for.

        Raises:
            LlmpruneError: the disk is full.
        """
        self._kept.pop(key, None)
        nbytes = sum(tensor.nbytes for tensor in tensors.values())
        if self.kept_bytes + nbytes <= self._budget:
            self._kept[key] = dict(tensors)
            self._spilled.pop(key, None)
            return
        self._spilled[key] = str(next(iter(tensors.values())).device)
        with explain_full_disk(self._folder):
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, self._path(key))

    def get(self, key: str) -> dict[str, Tensor]:
        """What was put under ``key``."""
        if key in self._kept:
            return self._kept[key]
        device = self._spilled[key]
        return {name: tensor.to(device) for name, tensor in load(self._path(key).read_bytes()).items()}

    def rows(self, key: str, rows: Tensor) -> dict[str, Tensor]:
        """Some rows (int64 indices) of what was put under ``key``. Of a file, only their pages are read."""
        if key in self._kept:
            return {name: tensor[rows] for name, tensor in self._kept[key].items()}
        device = self._spilled[key]
        with safe_open(self._path(key), framework="pt") as file:
            return {name: file.get_tensor(name)[rows.cpu()].to(device) for name in file.keys()}  # noqa: SIM118

    def drop(self, key: str) -> None:
        """Forget ``key``, if it is there."""
        self._kept.pop(key, None)
        if self._spilled.pop(key, None) is not None:
            self._path(key).unlink()

    @property
    def kept_bytes(self) -> int:
        """Bytes in memory."""
        return sum(tensor.nbytes for tensors in self._kept.values() for tensor in tensors.values())

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.scratch"
