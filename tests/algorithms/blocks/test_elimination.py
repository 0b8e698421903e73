"""When a candidate is out, and when it never is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import stats

from llmprune.algorithms.blocks.elimination import EliminationRule


@st.composite
def loss_matrices(draw, *, min_segments=2):
    """(candidates, segments) of losses, ties and constant rows among them."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(min_segments, 24)))
    elements = st.floats(0, 20, width=32) | st.sampled_from([0.0, 1.0, 2.0])
    return torch.from_numpy(draw(npst.arrays("float64", shape, elements=elements)))


rules = st.builds(EliminationRule, st.floats(1e-12, 0.49), st.integers(2, 12))


@given(loss_matrices(), rules)
def test_the_leader_is_never_dropped(losses, rule):
    assert not rule.hopeless(losses)[losses.mean(dim=1).argmin()]


@given(loss_matrices(), rules)
def test_nobody_is_dropped_on_fewer_segments_than_the_rule_asks_for(losses, rule):
    if losses.shape[1] < rule.min_segments:
        assert not rule.hopeless(losses).any()


@given(loss_matrices(min_segments=8), st.floats(1e-12, 0.49), st.floats(1e-12, 0.49))
def test_a_smaller_error_rate_drops_no_more(losses, one, other):
    strict, lax = (EliminationRule(rate).hopeless(losses) for rate in sorted((one, other)))
    assert not (strict & ~lax).any()


@given(loss_matrices(min_segments=8), st.integers(0, 100))
def test_the_texts_own_difficulty_cancels(losses, seed):
    exact = (losses * 1024).round() / 1024  # so that adding loses no digit
    difficulty = torch.randint(0, 64, losses.shape[1:], generator=torch.Generator().manual_seed(seed)).double()
    rule = EliminationRule()
    assert torch.equal(rule.hopeless(exact), rule.hopeless(exact + difficulty))


@given(st.integers(0, 10**6), st.integers(16, 40), st.floats(0, 1))
def test_decides_as_a_one_sided_paired_t_test(seed, segments, gap):
    generator = torch.Generator().manual_seed(seed)
    losses = torch.randn(2, segments, generator=generator, dtype=torch.float64)
    losses[1] += gap
    best, worst = (losses[row].numpy() for row in losses.mean(dim=1).argsort())
    p = stats.ttest_rel(worst, best, alternative="greater").pvalue
    for rate in (1e-4, 1e-2, 0.2):
        assert EliminationRule(rate).hopeless(losses).any() == (p < rate)


def test_equal_candidates_are_all_kept():
    assert not EliminationRule().hopeless(torch.ones(4, 50, dtype=torch.float64)).any()


def test_always_worse_by_the_same_is_hopeless():
    losses = torch.ones(3, 16, dtype=torch.float64)
    losses[1] += 0.5
    assert EliminationRule().hopeless(losses).tolist() == [False, True, False]


@given(st.integers(0, 10**6), st.floats(0, 0.5), st.floats(0, 0.99))
def test_the_more_of_all_windows_is_seen_the_surer_it_is(seed, gap, share):
    generator = torch.Generator().manual_seed(seed)
    losses = torch.randn(2, 16, generator=generator, dtype=torch.float64)
    losses[1] += gap
    rule, best = EliminationRule(), losses.mean(dim=1).argmin()
    excess = losses[1 - best] - losses[best]
    bound = stats.t.isf(rule.error_rate, 15) * stats.sem(excess.numpy()) * (1 - share) ** 0.5
    assert rule.hopeless(losses, share_seen=share).any() == (excess.mean() > bound)


def test_when_everything_is_seen_whatever_is_worse_is_hopeless():
    losses = torch.randn(5, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert EliminationRule().hopeless(losses, share_seen=1.0).sum() == 4


def test_equally_good_candidates_are_dropped_no_oftener_than_the_error_rate():
    generator, rate, trials = torch.Generator().manual_seed(0), 0.05, 2000
    dropped = 0
    for _ in range(trials):
        losses = torch.randn(2, 16, generator=generator, dtype=torch.float64)
        dropped += bool(EliminationRule(rate).hopeless(losses).any())
    # Either of two may be the unlucky one; the normal bound allows for the trials being finite.
    assert dropped / trials < 2 * rate + 4 * (2 * rate / trials) ** 0.5


@pytest.mark.parametrize("options", [{"error_rate": 0.0}, {"error_rate": 0.5}, {"error_rate": -1}])
def test_error_rates_that_mean_nothing_are_refused(options):
    with pytest.raises(ValueError, match="error_rate"):
        EliminationRule(**options)


def test_even_a_certain_loser_is_kept_until_there_are_enough_segments():
    losses = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    dropped = [EliminationRule(min_segments=5).hopeless(losses.expand(2, n)).any() for n in (1, 2, 4, 5)]
    assert dropped == [False, False, False, True]


def test_one_segment_can_decide_nothing():
    with pytest.raises(ValueError, match="min_segments"):
        EliminationRule(min_segments=1)
