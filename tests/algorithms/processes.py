"""Processes that divide the work of an algorithm, as threads of this one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier
from typing import Any

import torch
from torch import Tensor

from llmprune.errors import LlmpruneError


@dataclass(frozen=True)
class Thread:
    """One of several: see ``Processes``."""

    rank: int
    size: int
    barrier: Barrier
    board: list[Any]
    broadcasts: list[int] = field(default_factory=list)  # their owners

    def share(self, items: range) -> range:
        """As ``Ranks`` divides them."""
        each, more = divmod(len(items), self.size)
        start = self.rank * each + min(self.rank, more)
        return items[start : start + each + (self.rank < more)]

    def sum_rows(self, matrix: Tensor) -> Tensor:
        """In the order of the ranks; nothing is left of the matrix."""
        total = sum(self._gathered(matrix.clone()))
        matrix.fill_(float("nan"))
        own = self.share(range(len(matrix)))
        return total[own.start : own.stop]

    def join_rows(self, part: Tensor, rows: int) -> Tensor:
        """In the order of the ranks."""
        whole = torch.cat(self._gathered(part.clone()))
        assert len(whole) == rows
        return whole

    def sum(self, tensor: Tensor) -> Tensor:
        """In the order of the ranks."""
        total = sum(self._gathered(tensor.clone()))
        return tensor.copy_(total)

    def broadcast(self, tensor: Tensor, owner: int) -> Tensor:
        """The owner's."""
        self.broadcasts.append(owner)
        return tensor.copy_(self._gathered(tensor.clone())[owner])

    def agree(self, outcome: Any) -> list[Any]:
        """All outcomes."""
        found = self._gathered(outcome)
        for one in found:
            if isinstance(one, LlmpruneError):
                raise one
        return found

    def _gathered(self, value: Any) -> list[Any]:
        self.board[self.rank] = value
        self.barrier.wait(timeout=60)
        found = list(self.board)
        self.barrier.wait(timeout=60)
        return found


def by_threads(size: int, work: Callable[[Thread], Any]) -> list[Any]:
    """What ``work`` gives in each of so many threads; an error of one is the caller's."""
    barrier, board = Barrier(size), [None] * size
    with ThreadPoolExecutor(size) as pool:
        running = [pool.submit(work, Thread(rank, size, barrier, board)) for rank in range(size)]
        return [one.result() for one in running]
