"""What pruning and healing are made of, counted beforehand, and how long each kind takes on a device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from llmprune.models.devices import exact_products, half_products
from llmprune.models.timing import time_in_turn

_SQUARE = 1024  # rows and columns of a matrix product
_LONG = 1 << 21  # numbers of an elementwise operation
_FEW = 256  # of one that takes as long as its call
_CALLS = 200


@dataclass(frozen=True)
class Work:
    """What a computation is made of.

    Attributes:
        products: multiplications, each with an addition, of float32 matrix products.
        rounded: the same of those whose factors may be rounded (`half_products`).
        narrow: the same of products in the dtype that a model computes in.
        numbers: that elementwise operations make.
        calls: of operations, however small they are.
    """

    products: float = 0.0
    rounded: float = 0.0
    narrow: float = 0.0
    numbers: float = 0.0
    calls: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(**{kind: count + getattr(other, kind) for kind, count in vars(self).items()})

    def times(self, count: float) -> Work:
        """So many of it."""
        return Work(**{kind: count * one for kind, one in vars(self).items()})


@dataclass(frozen=True)
class WorkTimes:
    """Seconds of one of each kind of ``Work``, but for narrow products: a block's own time tells theirs."""

    products: float
    rounded: float
    numbers: float
    calls: float

    def of(self, work: Work) -> float:
        """Seconds of some work, without its narrow products."""
        return float(sum(seconds * getattr(work, kind) for kind, seconds in vars(self).items()))


def time_work(device: torch.device, dtype: torch.dtype) -> WorkTimes:
    """Time each kind on a device: the medians of a few repeats, taken in turn.

    Args:
        device: where solves are made.
        dtype: that a model computes in.
    """
    square, numbers = torch.ones(_SQUARE, _SQUARE, device=device), torch.ones(_LONG, device=device)
    few = numbers[:_FEW]

    def rounded() -> Tensor:
        with half_products(dtype):
            return square @ square

    actions: list[Callable[[], object]] = [lambda: square @ square, rounded]
    actions += [lambda: numbers * numbers, lambda: _call_often(few)]
    with exact_products():
        taken = time_in_turn(actions, device)
    exact, half, number, call = (median(seconds) for seconds in taken)
    return WorkTimes(exact / _SQUARE**3, half / _SQUARE**3, number / _LONG, call / _CALLS)


def _call_often(row: Tensor) -> None:
    for _ in range(_CALLS):
        row.mul_(row)
