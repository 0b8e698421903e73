"""The cost of a block search: memory for its states, block forwards, and time."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from torch import Tensor

from llmprune.algorithms.blocks.search import ChunkDone, forked_forwards
from llmprune.models.compute import Compute
from llmprune.models.decoder import Decoder
from llmprune.models.timing import time_in_turn
from llmprune.stages.block_search.evaluator import WindowEvaluator

_STATE_SHARE = 4  # of the free memory, one part in four may hold states
# Early elimination costs about as much as if all candidates saw so many windows, and so few all others: by simulation
# on SmolLM2's losses, 0.29 of the naive block forwards with 32 windows and 0.15 with 128.
_TYPICAL_WINDOWS = 13
TYPICAL_SURVIVORS = 3


@dataclass(frozen=True)
class WindowCost:
    """Measured seconds for one window.

    Attributes:
        block: one forward pass of one block.
        head: final norm, head and loss.
    """

    block: float
    head: float


@dataclass(frozen=True)
class SearchCost:
    """The rounds that are still to be searched, and their cost.

    Attributes:
        remaining: blocks not removed yet, in order.
        protected: blocks that are never candidates.
        rounds: how many to search.
        windows: calibration windows.
        eliminates: whether hopeless candidates are dropped early.
    """

    remaining: tuple[int, ...]
    protected: frozenset[int]
    rounds: int
    windows: int
    eliminates: bool

    @property
    def steps(self) -> float:
        """Steps of the progress bar: one a window, more for those that most candidates see."""
        return self.rounds * self._steps_of(self.windows)

    def step(self, done: ChunkDone) -> float:
        """Steps that one finished chunk is worth."""
        return self._steps_of(done.seen) - self._steps_of(done.seen - done.windows)

    def seconds(self, window: WindowCost, *, survivors: int | None) -> float:
        """Expected time if so many candidates are left after the first windows (None: all)."""
        total = 0.0
        for gone in range(self.rounds):
            blocks = list(self.remaining[gone:])  # which blocks are gone makes little difference
            candidates = [block for block in blocks if block not in self.protected]
            first = min(self.windows, _TYPICAL_WINDOWS)
            total += first * _window_seconds(blocks, candidates, window)
            middle = len(candidates) // 2
            others = candidates if survivors is None else candidates[middle : middle + survivors]
            total += (self.windows - first) * _window_seconds(blocks, others, window)
        return total

    def announcement(self, window: WindowCost) -> str:
        """The expected cost in words."""
        most = spell_seconds(self.seconds(window, survivors=None))
        measured = f"one block on one window: {1000 * window.block:.1f} ms, head and loss: {1000 * window.head:.1f} ms"
        if not self.eliminates:
            return f"{self.rounds} rounds, expected to take {most} ({measured})."
        likely = spell_seconds(self.seconds(window, survivors=TYPICAL_SURVIVORS))
        return f"{self.rounds} rounds, expected to take {likely}, at most {most} ({measured})."

    def _steps_of(self, seen: int) -> float:
        """Steps of the first so many windows of a round."""
        weight = max(1.0, len(self.remaining) / TYPICAL_SURVIVORS) if self.eliminates else 1.0
        first = min(seen, _TYPICAL_WINDOWS)
        return first * weight + seen - first


def chunk_windows(decoder: Decoder, tokens: Tensor, compute: Compute) -> int:
    """How many windows may go through the model together: all candidates' states in a share of the free memory."""
    window = decoder.runner.embed(tokens[:1].to(decoder.device))
    states = window.numel() * window.element_size() * (len(decoder.blocks) + 1)
    fitting = max(1, compute.free_bytes() // _STATE_SHARE // states)
    return min(fitting, len(tokens))


def measure_window_cost(evaluator: WindowEvaluator) -> WindowCost:
    """The median times of one forward pass of one block, and of the head, on one batch of windows."""
    batch = evaluator.first_batch()
    states = batch.entering(0)[None]
    times = time_in_turn(
        [lambda: batch.apply_block(0, states.clone(), 0), lambda: batch.losses(states, 0)], states.device
    )
    block, head = (median(seconds) / batch.windows_in(0) for seconds in times)
    return WindowCost(block=block, head=head)


def spell_seconds(seconds: float) -> str:
    """``40 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def _window_seconds(blocks: list[int], candidates: list[int], window: WindowCost) -> float:
    return forked_forwards(blocks, candidates) * window.block + len(candidates) * window.head
