"""What a block search can be asked for."""

from __future__ import annotations

from dataclasses import dataclass

from llmprune.algorithms.blocks.target import removal_count
from llmprune.artifacts.records.importance import SearchSettings
from llmprune.choices import ERROR_RATE, PROTECT_FIRST, PROTECT_LAST, TARGET, Metric, Search
from llmprune.errors import TargetError
from llmprune.stages.common.checks import require_at_least, require_target

_LEAST = 4  # windows: one to solve on, one that chooses the ridge, and two to measure on
_MOST = 32  # windows to solve on: their hidden states are in memory, and longer texts change the choice little


@dataclass(frozen=True)
class RedundancySettings:
    """What to search for, and how.

    Attributes:
        target: blocks to remove: ``20%``, ``0.2`` or ``6``.
        metric: ``sleb``, ``block-influence`` or ``angular``.
        search: ``eliminate`` drops hopeless candidates early; ``exhaustive`` measures all on every window.
        protect_first: blocks at the start that stay.
        protect_last: blocks at the end that stay.
        error_rate: chance, in one round, of dropping early the block that exhaustive would remove.
        chunk_windows: windows that go through the model together; None: from a memory budget.
        batch_size: windows in one forward pass of a block; None: what keeps the device busy.
        heal: measure each candidate with the block before it healed for its absence, and go on with the healed model.
        swap: how many swaps behind the search are kept at most.

    Raises:
        TargetError: a target or number that no model could satisfy.
    """

    target: str = TARGET
    metric: Metric = Metric.SLEB
    search: Search = Search.ELIMINATE
    protect_first: int = PROTECT_FIRST
    protect_last: int = PROTECT_LAST
    error_rate: float = ERROR_RATE
    chunk_windows: int | None = None
    batch_size: int | None = None
    heal: bool = False
    swap: int = 0

    def __post_init__(self) -> None:
        require_target(self.target)
        require_at_least(0, protect_first=self.protect_first, protect_last=self.protect_last)
        require_at_least(1, chunk_windows=self.chunk_windows, batch_size=self.batch_size)
        if not 0 < self.error_rate < 0.5:
            raise TargetError(
                f"`error_rate={self.error_rate}` is not between 0 and 0.5; type for example `error_rate=1e-3`."
            )

        require_at_least(0, swap=self.swap)
        if (self.heal or self.swap) and self.metric != Metric.SLEB:
            raise TargetError(
                f"`metric={self.metric}` measures no loss that healing or swaps could lower; leave out `heal` and "
                f"`swap`, or type `metric={Metric.SLEB}`."
            )

    @property
    def eliminates(self) -> bool:
        """Whether hopeless candidates are dropped early."""
        return self.metric == Metric.SLEB and self.search == Search.ELIMINATE

    def count(self, num_blocks: int) -> int:
        """How many of a model's blocks the target removes.

        Raises:
            TargetError: nothing, or nothing is left between the protected ends.
        """
        return removal_count(
            self.target,
            num_blocks=num_blocks,
            protect_first=self.protect_first,
            protect_last=self.protect_last,
        )


def as_recorded(known: SearchSettings) -> RedundancySettings:
    """The settings with which a search goes on as it began."""
    return RedundancySettings(
        metric=known.metric,
        search=known.search or Search.ELIMINATE,
        protect_first=known.protect_first,
        protect_last=known.protect_last,
        error_rate=known.error_rate or ERROR_RATE,
        heal=known.heal is not None,
    )


def protected_blocks(settings: RedundancySettings, num_blocks: int) -> frozenset[int]:
    """The blocks that are never candidates."""
    first, last = settings.protect_first, num_blocks - settings.protect_last
    return frozenset(block for block in range(num_blocks) if block < first or block >= last)


def solving_windows(windows: int, settings: RedundancySettings) -> int:
    """On how many of so many calibration windows corrections are solved: half, at most 32. Others measure candidates.

    Raises:
        TargetError: too few for a search with healing.
    """
    if not settings.heal:
        return 0
    if windows < _LEAST:
        raise TargetError(
            f"The calibration has {windows} windows; a search with healing solves on half of them and measures on the "
            f"others, so it needs {_LEAST} or more: calibrate with `samples={_LEAST}` or more."
        )
    return min(windows // 2, _MOST)
