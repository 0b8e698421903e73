"""The numbers of blocks, in the names of weights and after a removal."""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_BLOCKS = 10_000
"""More than any decoder has: a number beyond it, in a config or a record, is a mistake, and costs nothing."""


def split_at_number(name: str) -> tuple[str, int, str] | None:
    """What stands before a name's first number, the number, and what stands behind it; None: it has none.

    ``model.layers.7.mlp.weight`` is ``model.layers.``, 7, ``.mlp.weight``.
    """
    match = re.match(r"(.*?\.|)([0-9]+)(\..*)", name)
    return (match[1], int(match[2]), match[3]) if match else None


def kept_blocks(num_blocks: int, removed: Sequence[int]) -> list[int]:
    """Indices, in the unpruned model, of the blocks that stay."""
    gone = set(removed)
    return [block for block in range(num_blocks) if block not in gone]
