"""A figure with its interval, and the repeats that a figure is made from."""

from __future__ import annotations

from statistics import median
from typing import Annotated

from pydantic import Field

from llmprune.artifacts.records.provenance import Record

_CLEAR = 2.0  # a ratio of speeds that is not known within this factor says nothing


class Estimate(Record):
    """A figure, and how well it is known.

    Attributes:
        value: the figure.
        interval: its 95% confidence interval; null for a count, a median, and a figure of one measurement.
    """

    value: float
    interval: tuple[float, float] | None = None

    @property
    def is_clear(self) -> bool:
        """Whether the interval of a positive figure ends within a factor of two of it on both sides."""
        if self.interval is None:
            return False
        low, high = self.interval
        return self.value <= _CLEAR * low and high <= _CLEAR * self.value


class Repeats(Record):
    """Every repeat of one measurement.

    Attributes:
        values: one for each repeat, in the order taken.
    """

    values: Annotated[tuple[float, ...], Field(min_length=1)]

    @property
    def median(self) -> float:
        """Their median."""
        return median(self.values)
