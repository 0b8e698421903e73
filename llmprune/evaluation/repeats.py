"""The ratio of two models' repeats that were taken in turn, on a machine that may stall."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from llmprune.artifacts.records.estimates import Estimate
from llmprune.evaluation.intervals import estimate_ratio


def estimate_paired_ratio(values: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """Ratio of positive numbers that were taken in turn. Of three pairs or more, no single pair decides it.

    The value is the median of the pairs' ratios. The interval is Student's 95% interval of their logarithms' mean, and
    holds the median in any case. A stall in one pair leaves the value where it is and widens the interval.

    Args:
        values: one for each repeat.
        baseline: one for each repeat, taken right before or after the value.
    """
    value = median(one / other for one, other in zip(values, baseline, strict=True))
    interval = estimate_ratio(values, baseline).interval
    if interval is None:
        return Estimate(value=value)
    return Estimate(value=value, interval=(min(interval[0], value), max(interval[1], value)))
