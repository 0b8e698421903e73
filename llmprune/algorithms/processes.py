"""Several processes that divide the work of an algorithm among them: what it asks of them, whatever joins them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

from llmprune.errors import LlmpruneError

T = TypeVar("T")


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

    def sum_rows(self, matrix: Tensor, /) -> Tensor:
        """This process's share of the rows of a matrix's sum over all processes. The matrix is given away."""

    def join_rows(self, part: Tensor, rows: int, /) -> Tensor:
        """All rows of a matrix of which each process has its share."""

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

    def sum_rows(self, matrix: Tensor) -> Tensor:
        return matrix

    def join_rows(self, part: Tensor, rows: int) -> Tensor:
        del rows
        return part

    def broadcast(self, tensor: Tensor, owner: int) -> Tensor:
        del owner
        return tensor

    def agree(self, outcome: T | LlmpruneError) -> list[T]:
        if isinstance(outcome, LlmpruneError):
            raise outcome
        return [outcome]


ALONE: Processes = _Alone()


@dataclass(frozen=True)
class Rows:
    """The rows of a matrix, which processes divide.

    Attributes:
        count: how many there are.
        processes: that divide them.
    """

    count: int
    processes: Processes = ALONE

    @property
    def own(self) -> range:
        """Those of this process."""
        return self.processes.share(range(self.count))

    @property
    def here(self) -> slice:
        """Those of this process, to take them out of the matrix."""
        own = self.own
        return slice(own.start, own.stop)

    def join(self, part: Tensor) -> Tensor:
        """The matrix (rows, any), of whose rows each process has its own (own rows, any)."""
        return self.processes.join_rows(part, self.count)


def owners(costs: Sequence[float], size: int) -> tuple[int, ...]:
    """Which of ``size`` processes owns each piece of work: the largest goes first, to whoever has the least until then.

    Args:
        costs: of the pieces, in any unit.
        size: how many processes.
    """
    loads, chosen = [0.0] * size, [0] * len(costs)
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        owner = loads.index(min(loads))
        loads[owner] += costs[place]
        chosen[place] = owner
    return tuple(chosen)
