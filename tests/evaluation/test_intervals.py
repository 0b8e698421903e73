"""Confidence intervals: against scipy's, and against what they promise."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from llmprune.evaluation.intervals import (
    estimate_exp_mean,
    estimate_loss_ratio,
    estimate_mean,
    estimate_ratio,
    is_within,
    standard_error,
)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30))
def test_the_interval_is_students(values):
    found = estimate_mean(values)
    assert found.value == pytest.approx(sum(values) / len(values), abs=1e-9)
    if standard_error(values) > 1e-9:
        margin = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
        assert found.interval == pytest.approx((found.value - margin, found.value + margin), rel=1e-6, abs=1e-9)


def test_one_value_has_no_interval():
    assert estimate_mean([2.0]).interval is None
    assert estimate_exp_mean([0.0]).interval is None
    assert standard_error([1.0]) is None


def test_intervals_hold_the_truth_as_often_as_they_say():
    chooser = random.Random(0)
    held = 0
    for _ in range(2_000):
        low, high = estimate_exp_mean([chooser.gauss(3.0, 0.4) for _ in range(8)]).interval
        held += low < math.exp(3.0) < high
    assert 0.935 < held / 2_000 < 0.965


def test_a_paired_ratio_is_known_better_than_its_two_parts():
    chooser = random.Random(0)
    dense = [chooser.gauss(3.0, 0.4) for _ in range(50)]
    pruned = [loss + chooser.gauss(0.5, 0.02) for loss in dense]
    ratio = estimate_loss_ratio(pruned, dense)
    assert ratio.value == pytest.approx(estimate_exp_mean(pruned).value / estimate_exp_mean(dense).value)
    assert is_within(ratio, 0.01)
    assert not is_within(estimate_exp_mean(pruned), 0.05)


def test_ratios_of_repeats_are_geometric():
    assert estimate_ratio([2.0, 8.0], [1.0, 1.0]).value == pytest.approx(4.0)
    assert is_within(estimate_ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]), 1e-9)
    assert not is_within(estimate_ratio([2.0], [1.0]), 0.5)


def test_what_is_beyond_all_numbers_is_still_a_number():
    assert math.isfinite(estimate_exp_mean([1e4, 2e4]).interval[1])
