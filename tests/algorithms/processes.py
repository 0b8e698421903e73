"""Processes that divide the work of an algorithm, as threads of this one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import Any

from torch import Tensor

from llmprune.errors import LlmpruneError


@dataclass(frozen=True)
class Thread:
    """One of several: see ``Processes``."""

    rank: int
    size: int
    barrier: Barrier
    board: list[Any]

    def share(self, items: range) -> range:
        """As ``Ranks`` divides them."""
        each, more = divmod(len(items), self.size)
        start = self.rank * each + min(self.rank, more)
        return items[start : start + each + (self.rank < more)]

    def sum(self, tensor: Tensor) -> Tensor:
        """In the order of the ranks."""
        total = sum(self._gathered(tensor.clone()))
        return tensor.copy_(total)

    def broadcast(self, tensor: Tensor, owner: int) -> Tensor:
        """The owner's."""
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
