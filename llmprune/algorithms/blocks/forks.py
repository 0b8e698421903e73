"""One walk over the blocks that measures a model without each of its candidates: where tails fork, and what runs.

A tail forks from the shared prefix at its candidate, which it passes by. Where the block before a candidate is healed
for its absence, the tail forks one block earlier and runs that block as it is healed.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Healer(Protocol):
    """What a search with healing needs beside an evaluator: the block before a candidate makes good its absence.

    The evaluator runs a candidate's ``Tail`` through that block with the correction.
    """

    def solve(self, remaining: Sequence[int], candidates: Sequence[int]) -> frozenset[int]:
        """Solve a correction of the block before each candidate.

        Args:
            remaining: the model's blocks, in order.
            candidates: of the round, in order.

        Returns:
            The candidates that have one. Others have no block before them, or none that can be healed.
        """

    def restart(self) -> None:
        """No block is gone, and no correction is kept."""

    def keep(self, removed: int) -> None:
        """A candidate goes: its correction, where it has one, is the model's from now on."""


@dataclass(frozen=True)
class Fork:
    """A tail that begins with a copy of the prefix.

    Attributes:
        candidate: the block that it passes by.
        row: of the states; row 0 is the prefix.
        healed: whether it begins with the block before its candidate, as that is healed; else with the candidate.
    """

    candidate: int
    row: int
    healed: bool


@dataclass(frozen=True)
class Tail:
    """States (1, windows, seq_len, hidden_size) that run through a block as it is healed for what comes behind it.

    Attributes:
        candidate: the block behind, which they pass by.
        states: replaced by the block's outputs on them.
    """

    candidate: int
    states: Tensor


@dataclass(frozen=True)
class Step:
    """What happens at one block: tails fork, then the block runs.

    Attributes:
        block: which.
        forks: tails that begin here.
        running: the rows that it runs on as it is; rows of healed forks are not among them.
    """

    block: int
    forks: tuple[Fork, ...]
    running: range

    @property
    def forwards(self) -> int:
        """Forward passes of a block, for each window."""
        return len(self.running) + sum(fork.healed for fork in self.forks)


def walk(remaining: Sequence[int], candidates: Sequence[int], healed: Container[int] = ()) -> Iterator[Step]:
    """A step for each of the blocks ``remaining``, in order; the i-th candidate's tail is row i of the states.

    Args:
        remaining: the model's blocks, in order.
        candidates: the blocks to pass by in turn, in order.
        healed: those of them for which the block before is healed.
    """
    rows = {candidate: row for row, candidate in enumerate(candidates, start=1)}
    forked = passed = 0
    for block, behind in zip(remaining, [*remaining[1:], None], strict=True):
        forks = []
        if block in rows and block not in healed:
            forks.append(Fork(block, rows[block], healed=False))
        if behind in rows and behind in healed:
            forks.append(Fork(behind, rows[behind], healed=True))
        forked += len(forks)
        # Nobody ahead: nobody needs the prefix any more. The candidate's own tail passes it by, so it does not run.
        yield Step(block, tuple(forks), range(0 if forked < len(rows) else 1, passed + 1))
        passed += block in rows


def restore(healer: Healer | None, removed: Sequence[int], *, num_blocks: int) -> None:
    """Have the corrections in a model of so many blocks that the removal of some, one after the other, leaves in it."""
    if healer is None:
        return
    healer.restart()
    for place, block in enumerate(removed):
        healer.solve([one for one in range(num_blocks) if one not in removed[:place]], [block])
        healer.keep(block)
