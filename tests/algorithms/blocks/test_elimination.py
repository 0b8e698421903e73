"""When a candidate is out, when it never is, and how often the rule is wrong."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import stats

from llmprune.algorithms.blocks.elimination import EliminationRule

WINDOWS = 32

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "elimination_error.py"
spec = importlib.util.spec_from_file_location("elimination_error", BENCHMARK)
simulation = importlib.util.module_from_spec(spec)
spec.loader.exec_module(simulation)


def hopeless(rule, losses, *, num_windows=WINDOWS):
    return rule.hopeless(losses, candidates=len(losses), num_windows=num_windows)


@st.composite
def loss_matrices(draw):
    """(candidates, windows) of losses, ties and constant rows among them."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(2, 24)))
    elements = st.floats(0, 20, width=32) | st.sampled_from([0.0, 1.0, 2.0])
    return torch.from_numpy(draw(npst.arrays("float64", shape, elements=elements)))


@given(loss_matrices(), st.floats(1e-12, 0.49))
def test_the_leader_is_never_dropped(losses, rate):
    assert not hopeless(EliminationRule(rate), losses)[losses.mean(dim=1).argmin()]


@given(loss_matrices(), st.floats(1e-12, 0.49), st.floats(1e-12, 0.49))
def test_a_smaller_error_rate_drops_no_more(losses, one, other):
    strict, lax = (hopeless(EliminationRule(rate), losses) for rate in sorted((one, other)))
    assert not (strict & ~lax).any()


@given(loss_matrices(), st.integers(0, 100))
def test_the_texts_own_difficulty_cancels(losses, seed):
    exact = (losses * 1024).round() / 1024  # so that adding loses no digit
    difficulty = torch.randint(0, 64, losses.shape[1:], generator=torch.Generator().manual_seed(seed)).double()
    rule = EliminationRule()
    assert torch.equal(hopeless(rule, exact), hopeless(rule, exact + difficulty))


@given(st.integers(0, 10**6), st.integers(4, 30), st.integers(2, 9), st.floats(0, 1))
def test_decides_as_a_paired_t_test_at_the_corrected_level(seed, seen, candidates, gap):
    generator = torch.Generator().manual_seed(seed)
    losses = torch.randn(2, seen, generator=generator, dtype=torch.float64)
    losses[1] += gap
    best, worst = (losses[row].numpy() for row in losses.mean(dim=1).argsort())
    # The same test on an endless population, its statistic enlarged by the share of the windows that is still unseen.
    statistic = stats.ttest_rel(worst, best).statistic / (1 - seen / WINDOWS) ** 0.5
    p = stats.t.sf(statistic, seen - 1)
    for rate in (1e-3, 1e-2, 0.2):
        level = rate / ((candidates - 1) * len(EliminationRule.looks(WINDOWS)))
        out = EliminationRule(rate).hopeless(losses, candidates=candidates, num_windows=WINDOWS)
        assert out.any() == (p < level)


@pytest.mark.parametrize(
    ("windows", "looks"),
    [(1, ()), (4, ()), (5, (4,)), (8, (6, 7)), (16, (8, 11)), (32, (11, 19)), (128, (12, 39)), (1000, (12, 110))],
)
def test_looks_are_few_and_before_the_end(windows, looks):
    assert EliminationRule.looks(windows) == looks


def test_equal_candidates_are_all_kept():
    assert not hopeless(EliminationRule(), torch.ones(4, 20, dtype=torch.float64)).any()


def test_always_worse_by_the_same_is_hopeless():
    losses = torch.ones(3, 4, dtype=torch.float64)
    losses[1] += 0.5
    assert hopeless(EliminationRule(), losses).tolist() == [False, True, False]


def draws(searches, **options):
    generator = np.random.default_rng(0)
    return [simulation.draw_losses(generator, **options) for _ in range(searches)]


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("rate", [1e-3, 0.05])
def test_the_better_of_two_equal_candidates_is_dropped_no_oftener_than_the_error_rate(rate, heavy):
    searches = 1000
    rounds = draws(searches, candidates=2, windows=32, tokens=255, window_effect=0.1, heavy=heavy)
    dropped = sum(simulation.drops_the_best(losses, EliminationRule(rate)) for losses in rounds)
    allowed = rate * searches + 3 * (rate * searches) ** 0.5  # the simulation itself is finite
    assert dropped <= allowed
    # With segments as the unit and no correction for looking again, the same draws are wrong far oftener.
    assert sum(simulation.drops_the_best_formerly(losses, rate) for losses in rounds) > 2 * allowed


def test_the_best_of_many_equal_candidates_is_dropped_no_oftener_than_the_error_rate():
    searches, rate = 400, 0.05
    rounds = draws(searches, candidates=12, windows=16, tokens=64, window_effect=0.2)
    dropped = sum(simulation.drops_the_best(losses, EliminationRule(rate)) for losses in rounds)
    assert dropped <= rate * searches + 3 * (rate * searches) ** 0.5


@pytest.mark.parametrize("rate", [0.0, 0.5, -1, float("nan")])
def test_error_rates_that_mean_nothing_are_refused(rate):
    with pytest.raises(ValueError, match="error_rate"):
        EliminationRule(rate)


@pytest.mark.parametrize("candidates", [1, 2, 3, 6])
@pytest.mark.parametrize(("seen", "windows", "looks"), [(2, 3, 1), (4, 5, 1), (12, 40, 2), (22, 40, 2)])
def test_a_candidate_goes_where_its_t_exceeds_the_quantile_of_all_comparisons_together(
    candidates, seen, windows, looks
):
    rule = EliminationRule(error_rate=0.01)
    quantile = -stats.t.ppf(0.01 / (max(1, candidates - 1) * looks), seen - 1)
    noise = torch.randn(seen, generator=torch.Generator().manual_seed(seen), dtype=torch.float64)
    noise = (noise - noise.mean()) / noise.std()
    bound = quantile * ((1 - seen / windows) / seen) ** 0.5  # with the correction for drawing without replacement
    for factor, gone in [(0.999, False), (1.001, True)]:
        losses = torch.stack([torch.zeros(seen, dtype=torch.float64), noise + factor * bound])
        assert rule.hopeless(losses, candidates=candidates, num_windows=windows).tolist() == [False, gone]
