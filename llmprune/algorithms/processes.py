"""Several processes that divide the work of an algorithm among them: what it asks of them, whatever joins them."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from torch import Tensor

from llmprune.errors import LlmpruneError

T = TypeVar("T")

Add = Callable[[Tensor], Tensor]  # replaces a tensor by its sum over the processes


class Processes(Protocol):
    """This process among the others. All of them call each method, in the same order."""

    @property
    def rank(self) -> int:
        """Its number, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    def share(self, items: range, /) -> range:
        """This process's part of some items."""

    def sum(self, tensor: Tensor, /) -> Tensor:
        """Replace a tensor by its sum over all processes."""

    def broadcast(self, tensor: Tensor, owner: int, /) -> Tensor:
        """Replace a tensor by its owner's."""

    def agree(self, outcome: T | LlmpruneError, /) -> list[T]:
        """Every process's outcome, in their order. Where one is an error, it is raised, by all."""


class _Alone:
    """The only process."""

    rank, size = 0, 1

    def share(self, items: range) -> range:
        return items

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def broadcast(self, tensor: Tensor, owner: int) -> Tensor:
        return tensor

    def agree(self, outcome: T | LlmpruneError) -> list[T]:
        if isinstance(outcome, LlmpruneError):
            raise outcome
        return [outcome]


ALONE: Processes = _Alone()


def shared_rows(part: Tensor, rows: int, processes: Processes) -> Tensor:
    """All rows of a matrix of which each process has its share.

    Args:
        part: (own rows, any).
        rows: of the matrix.
        processes: that have the parts.
    """
    if processes.size == 1:
        return part
    whole = part.new_empty(rows, *part.shape[1:])
    own = processes.share(range(rows))
    whole[own.start : own.stop] = part
    start = 0
    for owner, count in enumerate(processes.agree(len(own))):
        if count:
            processes.broadcast(whole[start : start + count], owner)
        start += count
    return whole
