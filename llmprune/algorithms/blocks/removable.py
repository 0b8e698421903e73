"""Which blocks may go after which others, as the caller knows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llmprune.errors import TargetError

MayGo = Callable[[Sequence[int], int], bool]


def any_may_go(gone: Sequence[int], block: int) -> bool:
    """Every block may go, whichever are gone."""
    return True


def no_block_may_go(gone: Sequence[int]) -> TargetError:
    """The error where the blocks ``gone`` are gone, and none of the others may follow them."""
    return TargetError(
        f"When blocks {', '.join(map(str, gone))} are gone no other can be removed from this model; "
        f"type `target={len(gone)}` or less."
    )
