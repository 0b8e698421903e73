"""Hidden states of batches of windows that are replaced block after block: in memory, or in a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

from torch import Tensor

from llmprune.artifacts.files.rows import FileRows


class BatchStates:
    """The states of every batch (windows, seq_len, hidden_size).

    Args:
        states: of all batches, in order.
        sizes: windows in each.
        most: bytes of all of them that may be in memory; None: any number.
        folder: where the file goes if they are more; None: that of temporary files.
    """

    def __init__(
        self, states: Iterator[Tensor], sizes: Sequence[int], *, most: int | None, folder: Path | None
    ) -> None:
        self._kept: list[Tensor] = []
        self._file: FileRows | None = None
        self._ends = [0, *accumulate(sizes)]
        for place, batch in enumerate(states):
            if self._file is None and place == 0 and most is not None and batch[0].nbytes * sum(sizes) > most:
                self._file = FileRows(folder, sum(sizes), batch[0])
            if self._file is None:
                self._kept.append(batch)
            else:
                self._file.write(self._ends[place], batch)

    def __getitem__(self, place: int) -> Tensor:
        if self._file is None:
            return self._kept[place]
        return self._file.read(self._ends[place], self._ends[place + 1])

    def __setitem__(self, place: int, states: Tensor) -> None:
        if self._file is None:
            self._kept[place] = states
        else:
            self._file.write(self._ends[place], states)
