"""The settings of ``remove-blocks``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmprune.artifacts.checkpoints.copying import DEFAULT_SHARD_BYTES
from llmprune.choices import TARGET, Heal
from llmprune.errors import TargetError
from llmprune.stages.common.checks import read_numbers, require_target


@dataclass(frozen=True)
class RemovalSettings:
    """Which blocks to remove, and where to write the result.

    Attributes:
        target: ``20%``, ``0.2`` or ``6``: that many blocks from the head of the importance file.
        blocks: these blocks, by hand, instead of a target.
        heal: which blocks make good, by least squares, what the removed ones did; None: all, where a search with
            healing has chosen the blocks that a target removes, else none.
        out: the new checkpoint's directory; None: in the run directory, named after what is kept.
        max_shard_bytes: largest weight file.
        verify: reload the result and compare it with the bypassed source.
        force: replace an output directory that holds another checkpoint.

    Raises:
        TargetError: a target that no model could satisfy, or no block at all.
    """

    target: str = TARGET
    blocks: tuple[int, ...] | None = None
    heal: Heal | None = None
    out: Path | None = None
    max_shard_bytes: int = DEFAULT_SHARD_BYTES
    verify: bool = True
    force: bool = False

    def __post_init__(self) -> None:
        if self.blocks is None:
            require_target(self.target)
        elif not self.blocks:
            raise TargetError("No block was named; type for example `blocks=3,7,12`.")


def parse_blocks(text: str | None) -> tuple[int, ...] | None:
    """Read ``3,7,12`` as block indices; None stays None.

    Raises:
        TargetError: something else than whole numbers and commas.
    """
    if text is None:
        return None
    try:
        return read_numbers(text)
    except ValueError:
        raise TargetError(f"'{text:.60}' is not a list of block indices; type for example `blocks=3,7,12`.") from None
