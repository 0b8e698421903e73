"""Working tensors of one shape in a file without a name, for states that memory has no room for.

They are read and written, and not mapped: a mapped file counts as memory of the process as far as it was touched. The
file is gone with the process, however that ends.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from llmprune.artifacts.files.disk_space import explain_full_disk


class _Held:
    """What is gone when nobody needs a file any more."""


class FileRows:
    """Rows of one shape and dtype. It takes the place of a tensor (rows, *shape) whose rows are copied in and out.

    Args:
        folder: on whose disk the file is; None: that of temporary files.
        rows: how many.
        like: (*shape), a tensor like each row; what is read is on its device.
    """

    def __init__(self, folder: Path | None, rows: int, like: Tensor) -> None:
        self._folder, self._row = folder or Path(tempfile.gettempdir()), like[:0]
        self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - for as long as this lives
        self._held = _Held()  # by all parts
        weakref.finalize(self._held, self._file.close)
        self._nbytes, self._rows, self._shape = like.nbytes, range(rows), like.shape

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> torch.Size:
        """(rows, *shape)."""
        return torch.Size((len(self._rows), *self._shape))

    def __iter__(self) -> Iterator[Tensor]:
        return (self[row] for row in range(len(self)))

    @overload
    def __getitem__(self, row: int) -> Tensor: ...
    @overload
    def __getitem__(self, row: slice) -> FileRows: ...
    def __getitem__(self, row: int | slice) -> Tensor | FileRows:
        if isinstance(row, int):
            return self.read(row, row + 1)[0]
        part = object.__new__(FileRows)  # as a slice of a tensor is: what is written to it is written here
        part.__dict__.update(self.__dict__)
        part._rows = self._rows[row]
        return part

    def __setitem__(self, row: int, value: Tensor) -> None:
        self.write(row, value[None])

    def read(self, start: int, stop: int) -> Tensor:
        """A copy of some rows (stop - start, *shape)."""
        found = torch.empty(stop - start, *self._shape, dtype=self._row.dtype)
        if found.numel():
            buffer = found.view(-1).view(torch.uint8).numpy().data
            self._file.seek(self._rows[start] * self._nbytes)
            while buffer:
                taken = self._file.readinto(buffer)
                assert taken, "rows are written before they are read"
                buffer = buffer[taken:]
        return found.to(self._row.device)

    def write(self, start: int, values: Tensor) -> None:
        """Replace rows from ``start`` on by ``values`` (some, *shape).

        Raises:
            LlmpruneError: the disk is full.
        """
        if not values.numel():
            return
        buffer = values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
        self._file.seek(self._rows[start] * self._nbytes)
        with explain_full_disk(self._folder):
            while buffer:
                buffer = buffer[self._file.write(buffer) :]
