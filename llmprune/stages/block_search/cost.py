"""The cost of a block search: memory for its states, block forwards, reading, and time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import median

from llmprune.algorithms.blocks.chunks import chunk_sizes
from llmprune.algorithms.blocks.elimination import EliminationRule
from llmprune.algorithms.blocks.search import ChunkDone, forked_forwards
from llmprune.models.compute import Compute
from llmprune.models.timing import time_in_turn
from llmprune.stages.block_search.evaluator import WindowEvaluator
from llmprune.stages.block_search.settings import RedundancySettings, protected_blocks
from llmprune.stages.common.plans import spell_seconds

# On SmolLM2's losses the first comparison leaves about half of the candidates, and the second one 3 to 5 of 28.
TYPICAL_SURVIVORS = 4
# Forward passes of a block that healing costs for each block and window it solves on: the model's, the dense one's, and
# the Gram matrix of the layer's inputs.
_HEALING = 3
_HEALING_WALKS = 2  # over the model, and over the dense one


@dataclass(frozen=True)
class WindowCost:
    """Measured seconds.

    Attributes:
        block: one forward pass of one block on one window.
        head: final norm, head and loss of one window.
        reading: a walk over the model's blocks that reads them from files; 0: they are in memory.
    """

    block: float
    head: float
    reading: float = 0.0


@dataclass(frozen=True)
class SearchCost:
    """The rounds that are still to be searched, and their cost.

    Attributes:
        remaining: blocks not removed yet, in order.
        protected: blocks that are never candidates.
        rounds: how many to search.
        windows: calibration windows.
        eliminates: whether hopeless candidates are dropped early.
        fitting: see ``BlockEvaluator.fitting``; None: all windows go through the model together.
        solved_on: windows that healing solves on; 0: blocks are not healed.
    """

    remaining: tuple[int, ...]
    protected: frozenset[int]
    rounds: int
    windows: int
    eliminates: bool
    fitting: Callable[[int, int], int] | None = None
    solved_on: int = 0

    @property
    def steps(self) -> float:
        """Steps of the progress bar: states of a window, about."""
        return self.rounds * sum(windows * len(left) for windows, left in self._parts(self._candidates(0)))

    def step(self, done: ChunkDone) -> float:
        """Steps that one finished chunk is worth."""
        parts = list(self._parts(self._candidates(0)))
        ends = accumulate(windows for windows, _ in parts)
        return done.windows * next(len(left) for end, (_, left) in zip(ends, parts, strict=True) if done.seen <= end)

    def seconds(self, window: WindowCost, *, typical: bool) -> float:
        """Expected time if so many candidates are dropped as is usual, or none."""
        total = 0.0
        for gone in range(self.rounds):
            blocks = list(self.remaining[gone:])  # which blocks are gone makes little difference
            if self.solved_on:
                total += self.solved_on * _HEALING * len(blocks) * window.block + _HEALING_WALKS * window.reading
            for windows, left in self._parts(self._candidates(gone), typical=typical):
                each = forked_forwards(blocks, left) * window.block + len(left) * window.head
                total += sum(max(together * each, window.reading) for together in self._together(windows, left))
        return total

    def chunks(self, gone: int) -> Iterator[tuple[int, int]]:
        """The chunks of a round in which so many blocks are gone: windows, and states of each."""
        for windows, left in self._parts(self._candidates(gone)):
            for together in self._together(windows, left):
                yield together, len(left) + 1

    def walks(self, gone: int) -> int:
        """How often a round walks over the model."""
        return sum(1 for _ in self.chunks(gone)) + (_HEALING_WALKS if self.solved_on else 0)

    def announcement(self, window: WindowCost) -> str:
        """The expected cost in words."""
        most = spell_seconds(self.seconds(window, typical=False))
        measured = f"one block on one window: {1000 * window.block:.1f} ms, head and loss: {1000 * window.head:.1f} ms"
        if window.reading:
            measured += f", reading the blocks: {spell_seconds(window.reading)}"
        if not self.eliminates:
            return f"{self.rounds} rounds, expected to take {most} ({measured})."
        likely = spell_seconds(self.seconds(window, typical=True))
        return f"{self.rounds} rounds, expected to take {likely}, at most {most} ({measured})."

    def _together(self, windows: int, left: list[int]) -> Iterator[int]:
        """How many windows are in each chunk of those in which these candidates are measured."""
        if self.fitting is None:
            return iter((windows,))
        return chunk_sizes(windows, len(left) + 1, self.fitting)

    def _candidates(self, gone: int) -> list[int]:
        return [block for block in self.remaining[gone:] if block not in self.protected]

    def _parts(self, candidates: list[int], *, typical: bool = True) -> Iterator[tuple[int, list[int]]]:
        """The windows between comparisons: how many, and which candidates are left meanwhile."""
        for number, windows in enumerate(_between_looks(self.windows, eliminates=self.eliminates)):
            yield windows, _some(candidates, number) if typical else candidates


@dataclass(frozen=True)
class Division:
    """How a search divides the memory that is free.

    Attributes:
        states: bytes for the states of a chunk.
        device: bytes for blocks that stay on the device that computes.
        host: the same on the host beside it.
        beside: bytes for the states of the windows that healing solves on.
    """

    states: int
    device: int
    host: int
    beside: int = 0


def divide_memory(
    sizes: Sequence[int],
    window_bytes: int,
    windows: int,
    settings: RedundancySettings,
    *,
    solved_on: int,
    compute: Compute,
    taken: int = 0,
) -> Division:
    """Keep blocks in memory if all fit beside the states, or if there is memory that states have no use for.

    Args:
        sizes: bytes of each block.
        window_bytes: hidden states of a window.
        windows: calibration windows.
        settings: of the search.
        solved_on: windows that healing solves on, whose states in the model and in the dense one it holds.
        compute: tells what is free, and what on the host beside it.
        taken: bytes of it that the model takes beside its blocks, where it is not open yet.
    """
    free = compute.free_bytes() - taken
    beside = max(0, min(2 * solved_on * window_bytes, free // 2))
    free -= beside
    open_blocks = 2 * max(sizes)  # one that computes, and one that is read meanwhile
    if sum(sizes) <= free // 2:
        return Division((free - sum(sizes)) // 2, device=sum(sizes), host=0, beside=beside)
    candidates = list(range(len(sizes) - len(protected_blocks(settings, len(sizes)))))
    parts = enumerate(_between_looks(windows, eliminates=settings.eliminates))
    most = window_bytes * max(together * (len(_some(candidates, number)) + 1) for number, together in parts)
    states = max(min(most, (free - open_blocks) // 2), 0)
    device = max(free - open_blocks - 2 * states, 0)
    return Division(states, device=device, host=compute.free_host_bytes(), beside=beside)


def measure_window_cost(evaluator: WindowEvaluator) -> WindowCost:
    """The median times of one forward pass of one block, and of the head, on one batch of windows; and of reading."""
    batch = evaluator.first_batch()
    windows = range(batch.num_windows)
    states = batch.entering(windows)[None]
    with batch.opened(0):
        times = time_in_turn(
            [lambda: batch.apply_block(0, states.clone(), windows), lambda: batch.losses(states, windows)],
            states.device,
        )
    block, head = (median(seconds) / len(windows) for seconds in times)
    return WindowCost(block=block, head=head, reading=evaluator.pass_seconds)


def _between_looks(windows: int, *, eliminates: bool) -> list[int]:
    """How many windows candidates are measured on before they are compared, each time."""
    looks = EliminationRule.looks(windows) if eliminates else ()
    return [stop - start for start, stop in pairwise((0, *looks, windows))]


def _some(candidates: list[int], comparisons: int) -> list[int]:
    """As many candidates from the middle as are usually left after so many comparisons."""
    few = min(TYPICAL_SURVIVORS, len(candidates))
    left = (len(candidates), max(few, len(candidates) // 2), few)[comparisons]
    start = (len(candidates) - left) // 2
    return candidates[start : start + left]
