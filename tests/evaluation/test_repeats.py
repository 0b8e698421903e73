"""Ratios of repeats: one stalled repeat neither decides the value nor passes for knowledge."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprune.evaluation.repeats import estimate_paired_ratio

positive = st.floats(1e-3, 1e3)


def test_the_value_is_the_median_of_the_pairs():
    found = estimate_paired_ratio([2.0, 3.0, 8.0], [1.0, 2.0, 2.0])
    assert found.value == 2.0
    logs = [math.log(ratio) for ratio in (2.0, 1.5, 4.0)]
    mean = sum(logs) / 3
    error = math.sqrt(sum((log - mean) ** 2 for log in logs) / 2 / 3)
    margin = 4.302652729911275 * error  # Student's 97.5% quantile for 2 degrees of freedom
    assert found.interval == pytest.approx((math.exp(mean - margin), math.exp(mean + margin)))


@pytest.mark.parametrize("stalled", range(5))
def test_a_stall_in_one_repeat_leaves_the_value_and_is_not_clear(stalled):
    steady = [1.0, 1.01, 0.99, 1.0, 1.02]
    values = [20.0 if index == stalled else value for index, value in enumerate(steady)]
    found = estimate_paired_ratio(values, [1.0] * 5)
    assert found.value == pytest.approx(1.0, abs=0.02)
    assert not found.is_clear
    assert estimate_paired_ratio(steady, [1.0] * 5).is_clear


def test_a_single_pair_has_no_interval():
    found = estimate_paired_ratio([3.0], [2.0])
    assert (found.value, found.interval) == (1.5, None)


@given(st.lists(st.tuples(positive, positive), min_size=2, max_size=30))
def test_the_interval_holds_the_value(pairs):
    found = estimate_paired_ratio(*zip(*pairs, strict=True))
    assert found.interval[0] <= found.value <= found.interval[1]


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=15).filter(lambda pairs: len(pairs) % 2))
def test_turning_the_models_round_turns_the_ratio(pairs):
    values, baseline = zip(*pairs, strict=True)
    turned = estimate_paired_ratio(baseline, values)
    assert turned.value == pytest.approx(1 / estimate_paired_ratio(values, baseline).value)
