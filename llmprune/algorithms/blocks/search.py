"""Greedy block elimination (SLEB, arXiv 2402.09025, Algorithm 1), evaluated block by block.

A round asks for the loss with block j also skipped, for every candidate j. Skipping
each in a full forward pass runs the blocks before j again and again on the same
states. Here the blocks are walked once: a shared prefix forks a tail at every
candidate, and each block runs on the prefix and on all tails that have passed their
own fork. The numbers are the same; the block forwards are about half.

The windows go through the model in chunks, each of which reads the model once. A chunk
is as large as memory allows for the candidates that are left, and ends where candidates
are compared: three chunks a round where memory has room for them.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from llmprune.algorithms.blocks.chunks import chunks
from llmprune.algorithms.blocks.elimination import EliminationRule
from llmprune.algorithms.blocks.evaluator import BlockEvaluator, Measure, WindowLosses
from llmprune.algorithms.blocks.forks import Healer, Tail, restore, walk
from llmprune.algorithms.blocks.removable import MayGo, any_may_go, no_block_may_go
from llmprune.errors import NumericalError


@dataclass(frozen=True)
class Candidate:
    """What a round learnt about one block.

    Attributes:
        block: its index in the unpruned model.
        loss: mean loss with it skipped, in nats/token, over the tokens seen.
        tokens: predicted tokens seen.
        complete: whether it saw every window (a dropped candidate did not).
    """

    block: int
    loss: float
    tokens: int
    complete: bool


@dataclass(frozen=True)
class Round:
    """One decision of the greedy search.

    Attributes:
        removed: index, in the unpruned model, of the block chosen.
        loss: mean loss without it and all blocks removed before, in nats/token.
        candidates: every candidate, in block order.
        block_forwards: forward passes of one block on one window that were run.
        naive_block_forwards: how many skipping each block in a full pass would have run.
    """

    removed: int
    loss: float
    candidates: tuple[Candidate, ...]
    block_forwards: int
    naive_block_forwards: int


@dataclass(frozen=True)
class ChunkDone:
    """Progress inside a round.

    Attributes:
        windows: in the chunk that is done.
        seen: windows done in this round.
        num_windows: all windows.
        candidates: that were measured on it.
    """

    windows: int
    seen: int
    num_windows: int
    candidates: int


# Makes room for so many states like the one (windows, seq_len, hidden_size) that is given. The search copies rows in
# and out, and hands slices of them to the evaluator; nothing else, so that they may lie elsewhere than in memory.
Stack = Callable[[Tensor, int], Tensor]


def in_memory(entering: Tensor, states: int) -> Tensor:
    """The ``Stack`` that is a tensor (states, windows, seq_len, hidden_size)."""
    return entering.new_empty((states, *entering.shape))


def greedy_rounds(
    evaluator: BlockEvaluator,
    *,
    count: int,
    removed: Sequence[int] = (),
    protected: frozenset[int] = frozenset(),
    may_go: MayGo = any_may_go,
    rule: EliminationRule | None = None,
    healer: Healer | None = None,
    measure: Measure | None = None,
    on_chunk: Callable[[ChunkDone], None] = lambda _: None,
) -> Iterator[Round]:
    """Remove the block whose skipping costs least, ``count`` times, measuring anew after every removal.

    Args:
        evaluator: model and calibration windows.
        count: how many blocks to remove in all, the ones in ``removed`` included.
        removed: blocks that an earlier search has removed, in order.
        protected: blocks that are never candidates.
        may_go: which of the others may go when some are gone.
        rule: drop hopeless candidates by this rule; None: every candidate sees every window.
        healer: measure each candidate with the block before it healed, and keep the correction of the one that goes;
            those of blocks in ``removed`` are solved again first. None: blocks stay as they are.
        measure: has candidates measured, such as by several processes; None: by the evaluator.
        on_chunk: called after every chunk.

    Yields:
        One ``Round`` for every removal, as it is decided.

    Raises:
        NumericalError: a loss is not a number.
        TargetError: no block may go before all have gone that were asked for.
    """
    gone = list(removed)
    restore(healer, gone, num_blocks=evaluator.num_blocks)
    while len(gone) < count:
        decided = search_round(
            evaluator,
            gone,
            protected=protected,
            may_go=may_go,
            rule=rule,
            healer=healer,
            measure=measure or partial(losses_without, evaluator),
            on_chunk=on_chunk,
        )
        if healer is not None:
            healer.keep(decided.removed)
        gone.append(decided.removed)
        yield decided


def left_of(evaluator: BlockEvaluator, gone: Container[int]) -> list[int]:
    """The blocks that are left of the model when some are gone, in order."""
    return [block for block in range(evaluator.num_blocks) if block not in gone]


def losses_without(
    evaluator: BlockEvaluator,
    windows: range,
    remaining: Sequence[int],
    candidates: Sequence[int],
    healed: Container[int],
    on_windows: Callable[[int], None],
    *,
    stack: Stack = in_memory,
) -> WindowLosses:
    """Losses with each candidate skipped, on windows that go through the model in as few chunks as memory allows.

    Args:
        evaluator: model and calibration windows.
        windows: which of them; none give no losses.
        remaining: the model's blocks, in order.
        candidates: the blocks to skip in turn, in order.
        healed: those of them for which the block before is healed.
        on_windows: called with the number of windows in every chunk that is done.
        stack: makes room for the states of a chunk.

    Returns:
        The losses, a row for each candidate.
    """
    evaluator.expect(remaining)
    sums, tokens = [torch.empty(len(candidates), 0, dtype=torch.float64)], 0
    for chunk in chunks(evaluator, windows.start, windows.stop, states=len(candidates) + 1):
        found = forked_losses(evaluator, chunk, remaining=remaining, candidates=candidates, healed=healed, stack=stack)
        sums, tokens = [*sums, found.sums], found.tokens
        on_windows(len(chunk))
    return WindowLosses(torch.cat(sums, dim=1), tokens)


def forked_losses(
    evaluator: BlockEvaluator,
    windows: range,
    *,
    remaining: Sequence[int],
    candidates: Sequence[int],
    healed: Container[int] = (),
    stack: Stack = in_memory,
) -> WindowLosses:
    """Losses with each candidate skipped, walking the blocks once.

    Args:
        evaluator: model and calibration windows.
        windows: which of them.
        remaining: the model's blocks, in order.
        candidates: the blocks to skip in turn, in order.
        healed: those of them for which the block before is healed.
        stack: makes room for the states.

    Returns:
        The losses, a row for each candidate.
    """
    entering = evaluator.entering(windows)
    states = stack(entering, len(candidates) + 1)
    states[0] = entering  # row 0 is the shared prefix, row i the tail of the i-th candidate
    for step in walk(remaining, candidates, healed):
        for fork in step.forks:
            states[fork.row] = states[0]
        if step.forwards:
            tails = [Tail(fork.candidate, states[fork.row : fork.row + 1]) for fork in step.forks if fork.healed]
            evaluator.apply_block(step.block, states[step.running.start : step.running.stop], windows, healed=tails)
    return evaluator.losses(states[1:], windows)


def forked_forwards(remaining: Sequence[int], candidates: Sequence[int], healed: Container[int] = ()) -> int:
    """Block forwards, for each window, that ``forked_losses`` runs."""
    return sum(step.forwards for step in walk(remaining, candidates, healed))


class _Candidates:
    """The candidates of one round with their window losses so far; `surviving` are still measured."""

    def __init__(self, candidates: Sequence[int]) -> None:
        self.surviving = list(candidates)
        self._sums: dict[int, list[Tensor]] = {block: [] for block in candidates}
        self._tokens = 0

    def add(self, losses: WindowLosses) -> None:
        for block, sums in zip(self.surviving, losses.sums, strict=True):
            if not torch.isfinite(sums).all():
                raise NumericalError(
                    f"The loss with block {block} skipped is not a number; look for NaN in the weights."
                )
            self._sums[block].append(sums)
        self._tokens = losses.tokens

    def drop(self, rule: EliminationRule, *, num_windows: int) -> None:
        means = torch.stack([torch.cat(self._sums[block]) / self._tokens for block in self.surviving])
        hopeless = rule.hopeless(means, candidates=len(self._sums), num_windows=num_windows).tolist()
        self.surviving = [block for block, out in zip(self.surviving, hopeless, strict=True) if not out]

    def results(self) -> tuple[Candidate, ...]:
        return tuple(self._result(block) for block in self._sums)

    def _result(self, block: int) -> Candidate:
        sums = torch.cat(self._sums[block])
        tokens = len(sums) * self._tokens
        return Candidate(block, float(sums.sum()) / tokens, tokens, complete=block in self.surviving)


def search_round(
    evaluator: BlockEvaluator,
    gone: Sequence[int],
    *,
    protected: frozenset[int],
    may_go: MayGo,
    rule: EliminationRule | None,
    healer: Healer | None,
    measure: Measure,
    on_chunk: Callable[[ChunkDone], None],
) -> Round:
    """Measure what may follow the blocks ``gone``, and choose the one whose skipping costs least; as `greedy_rounds`.

    Raises:
        NumericalError: a loss is not a number.
        TargetError: no block may go.
    """
    remaining = left_of(evaluator, gone)
    candidates = [block for block in remaining if block not in protected and may_go(gone, block)]
    if not candidates:
        raise no_block_may_go(gone)
    healed: Container[int] = () if healer is None else healer.solve(remaining, candidates)
    measured = _Candidates(candidates)
    forwards, seen, total = 0, 0, evaluator.num_windows

    def done(windows: int) -> None:
        nonlocal seen
        seen += windows
        on_chunk(ChunkDone(windows, seen, total, len(measured.surviving)))

    looks = () if rule is None else rule.looks(total)
    for start, stop in pairwise((0, *looks, total)):
        forwards += forked_forwards(remaining, measured.surviving, healed) * (stop - start)
        measured.add(measure(range(start, stop), remaining, measured.surviving, healed, done))
        if rule is not None and stop in looks:
            measured.drop(rule, num_windows=total)
    results = measured.results()
    best = min((c for c in results if c.complete), key=lambda candidate: candidate.loss)
    naive = len(candidates) * (len(remaining) - 1) * total
    return Round(best.block, best.loss, results, forwards, naive)
