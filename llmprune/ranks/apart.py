"""Ranks that work on things of their own for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llmprune.ranks.group import Ranks, join_as, joined


@contextmanager
def by_itself() -> Iterator[Ranks]:
    """Let this process work as if it were alone, while the others of its group do the same.

    It asks nothing of them, and shares the memory of its machine with those that are there.
    """
    group = joined()
    own, others = group.peers[group.rank : group.rank + 1], group.peers[: group.rank] + group.peers[group.rank + 1 :]
    join_as(Ranks(peers=own + others))
    try:
        yield joined()
    finally:
        join_as(group)
