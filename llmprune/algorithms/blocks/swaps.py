"""Swaps behind a greedy search: take one removed block back, and let another go in its place.

A greedy choice is never looked at again, and one that was good at first may be bad beside those that came later. Here
each removed block is taken back in turn, and a round of the search decides anew which block goes in its place. That is
the exchange of floating search in feature selection (Pudil, Novovicova and Kittler, Pattern Recognition Letters 1994).
A swap is kept where the loss falls by more than a one-sided paired t-test over the windows can call chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from scipy.special import stdtrit
from torch import Tensor

from llmprune.algorithms.blocks.elimination import EliminationRule
from llmprune.algorithms.blocks.evaluator import BlockEvaluator, Measure
from llmprune.algorithms.blocks.forks import Healer, restore
from llmprune.algorithms.blocks.removable import MayGo, any_may_go
from llmprune.algorithms.blocks.search import ChunkDone, left_of, losses_without, search_round


@dataclass(frozen=True)
class Swap:
    """One removed block that was taken back, and what went in its place.

    Attributes:
        taken_back: the block.
        removed: what a round of the search lets go in its place; the same block where nothing is better.
        loss_before: mean loss without the blocks as they were, in nats/token.
        loss: mean loss with the other choice.
        kept: whether it is lower beyond chance, and so the choice from now on.
    """

    taken_back: int
    removed: int
    loss_before: float
    loss: float
    kept: bool


def after_swaps(removed: Sequence[int], swaps: Sequence[Swap]) -> tuple[int, ...]:
    """The blocks that are gone after some swaps, in the order in which they went."""
    gone = list(removed)
    for swap in swaps:
        if swap.kept:
            gone.remove(swap.taken_back)
            gone.append(swap.removed)
    return tuple(gone)


def swap_rounds(
    evaluator: BlockEvaluator,
    removed: Sequence[int],
    *,
    most: int,
    level: float,
    tried: Sequence[Swap] = (),
    protected: frozenset[int] = frozenset(),
    may_go: MayGo = any_may_go,
    rule: EliminationRule | None = None,
    healer: Healer | None = None,
    measure: Measure | None = None,
    on_chunk: Callable[[ChunkDone], None] = lambda _: None,
) -> Iterator[Swap]:
    """Take removed blocks back in turn, the one that is gone longest first, until no swap is kept any more.

    Args:
        evaluator: model and calibration windows.
        removed: the blocks that a search has removed, in order.
        most: swaps to keep at most.
        level: chance, in one comparison, of keeping a swap that is not better.
        tried: what an earlier run has tried, in order.
        protected: as in ``greedy_rounds``, as are the following.
        may_go: which blocks may go when some are gone.
        rule: drops hopeless candidates.
        healer: heals the block before each candidate.
        measure: has candidates measured.
        on_chunk: called after every chunk.

    Yields:
        Each swap as it was tried, kept or not.

    Raises:
        NumericalError: a loss is not a number.
        TargetError: no block may go when all but the one that is taken back are gone.
    """
    measure = measure or partial(losses_without, evaluator)
    done = list(tried)
    while sum(swap.kept for swap in done) < most:
        gone, failed = after_swaps(removed, done), _failed_in_a_row(done)
        if failed == len(gone):
            return
        others = [block for block in gone if block != gone[failed]]
        restore(healer, others, num_blocks=evaluator.num_blocks)
        decided = search_round(
            evaluator,
            others,
            protected=protected,
            may_go=may_go,
            rule=rule,
            healer=healer,
            measure=measure,
            on_chunk=on_chunk,
        )
        swap = Swap(gone[failed], decided.removed, decided.loss, decided.loss, kept=False)
        if decided.removed != gone[failed]:
            remaining, pair = left_of(evaluator, others), sorted((decided.removed, gone[failed]))
            healed = healer.solve(remaining, pair) if healer is not None else frozenset()
            losses = measure(range(evaluator.num_windows), remaining, pair, healed, lambda _: None)
            means = dict(zip(pair, losses.sums / losses.tokens, strict=True))
            swap = _compared(gone[failed], decided.removed, means, level)
        done.append(swap)
        yield swap


def _failed_in_a_row(done: Sequence[Swap]) -> int:
    """How many swaps were tried and not kept since the last one that was."""
    kept = [place for place, swap in enumerate(done, start=1) if swap.kept]
    return len(done) - (kept[-1] if kept else 0)


def _compared(taken_back: int, removed: int, means: dict[int, Tensor], level: float) -> Swap:
    """A swap by the mean losses (windows,) of both choices on the same windows."""
    before, after = means[taken_back], means[removed]
    gain, windows = before - after, len(before)
    if windows < 2:
        return Swap(taken_back, removed, float(before.mean()), float(after.mean()), kept=False)
    error = float(gain.std()) / windows**0.5
    kept = float(gain.mean()) > -float(stdtrit(windows - 1, level)) * error
    return Swap(taken_back, removed, float(before.mean()), float(after.mean()), kept=kept)
