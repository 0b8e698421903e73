"""Swaps: a greedy choice that turns out bad is taken back; a gain that chance may explain is none."""

import itertools

import pytest
import torch
from scipy import stats

from llmprune.algorithms.blocks.evaluator import WindowLosses
from llmprune.algorithms.blocks.search import greedy_rounds
from llmprune.algorithms.blocks.swaps import after_swaps, swap_rounds

WINDOWS = 16


class Table:
    """An evaluator whose losses are looked up by the set of blocks that did not run, with some noise of its own."""

    def __init__(self, depth, losses, *, noise):
        self.num_blocks, self.num_windows, self._losses, self._noise = depth, WINDOWS, losses, noise

    def fitting(self, states, windows):
        return windows

    def expect(self, blocks):
        pass

    def entering(self, windows):
        return torch.zeros(len(windows), 1, self.num_blocks)

    def apply_block(self, block, states, windows, *, healed=()):
        for some in (states, *(tail.states for tail in healed)):
            some[..., block] = 1

    def losses(self, states, windows):
        sums = []
        for state in states:
            skipped = frozenset((state[0].flatten() == 0).nonzero().flatten().tolist())
            own = torch.Generator().manual_seed(sum(2**block for block in skipped))
            sums.append(self._losses(skipped) + self._noise * torch.randn(len(windows), generator=own).double())
        return WindowLosses(torch.stack(sums), 1)


def deceiving(skipped):
    """Alone, block 1 is the best to go; with others, 2 and 3 together are by far."""
    return 1 + 0.1 * len(skipped) + (-0.05 if skipped == {1} else 0) + (-0.5 if {2, 3} <= skipped else 0)


def found(noise=0.001, **options):
    evaluator = Table(5, deceiving, noise=noise)
    order = [decided.removed for decided in greedy_rounds(evaluator, count=2, protected=frozenset({0}))]
    assert order[0] == 1
    protected = frozenset({0})
    return order, list(swap_rounds(evaluator, order, **{"most": 5, "level": 1e-3, "protected": protected, **options}))


def test_a_block_that_was_a_bad_choice_comes_back():
    order, swaps = found()
    assert set(after_swaps(order, swaps)) == {2, 3}
    kept = [swap for swap in swaps if swap.kept]
    assert [swap.taken_back for swap in kept] == [1]
    assert kept[0].loss == pytest.approx(0.7, abs=0.01) and kept[0].loss_before == pytest.approx(1.2, abs=0.01)
    # Behind the swap that was kept every block is tried once more, and nothing is better.
    assert len(swaps) - swaps.index(kept[0]) - 1 == 2
    assert [swap.kept for swap in swaps[-2:]] == [False, False]


def test_a_gain_within_the_noise_is_not_kept():
    order, swaps = found(noise=2.0)
    assert after_swaps(order, swaps) == tuple(order)
    assert len(swaps) == 2


def test_no_more_swaps_are_kept_than_asked_for():
    assert sum(swap.kept for swap in found(most=1)[1]) == 1
    assert found(most=0)[1] == []


def test_what_was_tried_is_not_tried_again():
    _, swaps = found()
    for done in range(len(swaps) + 1):
        assert found(tried=swaps[:done])[1] == swaps[done:]


class Notes:
    """A healer that notes what is kept since it began anew."""

    def __init__(self):
        self.kept, self.asked = [], []

    def solve(self, remaining, candidates):
        self.asked.append((tuple(self.kept), tuple(remaining), tuple(candidates)))
        return frozenset(candidates) - {remaining[0]}

    def restart(self):
        self.kept = []

    def keep(self, removed):
        self.kept.append(removed)


def test_the_healed_model_is_that_of_the_blocks_that_are_still_gone():
    healer = Notes()
    order, swaps = found(healer=healer, most=1)
    gone = list(order)
    rounds = [asked for asked in healer.asked if len(asked[2]) > 2]
    for swap, (kept, remaining, candidates) in zip(swaps, rounds, strict=True):
        others = [block for block in gone if block != swap.taken_back]
        assert list(kept) == others
        assert set(remaining) == set(range(5)) - set(others)
        assert swap.taken_back in candidates
        gone = list(after_swaps(order, swaps[: swaps.index(swap) + 1]))
    for kept, remaining, _ in healer.asked:
        assert set(remaining).isdisjoint(kept)
    assert all(len(set(pair)) == 2 for pair in itertools.pairwise(order))


def test_a_search_keeps_in_its_healer_what_it_removes():
    healer = Notes()
    decided = [one.removed for one in greedy_rounds(Table(5, deceiving, noise=0.001), count=2, healer=healer)]
    assert healer.kept == decided
    assert [kept for kept, _, _ in healer.asked] == [(), (decided[0],)]


def test_nothing_is_swapped_on_a_single_window_which_tells_no_error():
    evaluator = Table(5, deceiving, noise=0.0)
    evaluator.num_windows = 1
    swaps = list(swap_rounds(evaluator, [1, 2], most=5, level=1e-3, protected=frozenset({0})))
    assert [(swap.taken_back, swap.removed, swap.kept) for swap in swaps] == [(1, 3, False), (2, 2, False)]
    assert (swaps[0].loss_before, swaps[0].loss) == pytest.approx((1.2, 0.7))


def compared(before, after, *, level):
    """The swap that is tried where block 1 is gone, block 2 looks better, and both have these losses (windows,)."""
    evaluator = Table(4, None, noise=0.0)
    evaluator.num_windows = len(before)

    def measure(windows, remaining, candidates, healed, on_windows):
        if len(candidates) == 2:
            assert candidates == [1, 2] and len(windows) == len(before)
            return WindowLosses(4 * torch.stack([before, after]), 4)
        return WindowLosses(torch.tensor([[8.0], [4.0], [12.0]]).double().expand(3, len(windows)), 4)

    options = {"most": 1, "level": level, "protected": frozenset({0})}
    return next(iter(swap_rounds(evaluator, [1], measure=measure, **options)))


@pytest.mark.parametrize("windows", [2, 3, 16])
@pytest.mark.parametrize("level", [0.001, 0.2])
def test_a_swap_is_kept_where_its_mean_gain_exceeds_what_chance_explains(windows, level):
    noise = torch.randn(windows, generator=torch.Generator().manual_seed(windows), dtype=torch.float64)
    noise = 3 * (noise - noise.mean()) / noise.std()
    before = 50 + torch.randn(windows, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    bound = stats.t.ppf(1 - level, windows - 1) * 3 / windows**0.5
    for factor, kept in [(0.999, False), (1.001, True)]:
        swap = compared(before, before - noise - factor * bound, level=level)
        assert (swap.taken_back, swap.removed, swap.kept) == (1, 2, kept)
        assert swap.loss_before == pytest.approx(float(before.mean()))
        assert swap.loss == pytest.approx(float(before.mean()) - factor * bound)


def test_no_gain_at_all_is_none_however_small_its_error():
    same = torch.full((5,), 2.0, dtype=torch.float64)
    assert not compared(same, same, level=0.1).kept
    assert compared(same, same - 0.25, level=0.1).kept
