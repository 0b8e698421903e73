"""What solves are made of, counted beforehand, and how long each kind takes on a device."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from llmprune.models.timing import time_in_turn

_SQUARE = 1024  # rows and columns of a matrix product
_LONG = 1 << 21  # numbers of an elementwise operation
_SHORT = 256  # of one that takes as long as its call
_CALLS = 200


@dataclass(frozen=True)
class Work:
    """What a computation in float32 is made of.

    Attributes:
        products: multiplications, each with an addition, of matrix products.
        numbers: that elementwise operations make.
        calls: of operations, however small they are.
    """

    products: float = 0.0
    numbers: float = 0.0
    calls: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.products + other.products, self.numbers + other.numbers, self.calls + other.calls)

    def times(self, count: float) -> Work:
        """So many of it."""
        return Work(count * self.products, count * self.numbers, count * self.calls)


@dataclass(frozen=True)
class WorkTimes:
    """Seconds of one of each kind of ``Work``."""

    product: float
    number: float
    call: float

    def of(self, work: Work) -> float:
        """Seconds of some work."""
        return work.products * self.product + work.numbers * self.number + work.calls * self.call


def time_work(device: torch.device) -> WorkTimes:
    """Time each kind on a device: the medians of a few repeats, taken in turn."""
    square, numbers = torch.ones(_SQUARE, _SQUARE, device=device), torch.ones(_LONG, device=device)
    few = numbers[:_SHORT]
    taken = time_in_turn([lambda: square @ square, lambda: numbers * numbers, lambda: _call_often(few)], device)
    product, number, call = (median(seconds) for seconds in taken)
    return WorkTimes(product / _SQUARE**3, number / _LONG, call / _CALLS)


def _call_often(row: Tensor) -> None:
    for _ in range(_CALLS):
        row.mul_(row)
