"""Sparsity patterns: what they mean, how a keep mask is chosen from scores, how a mask is checked.

Scores and masks are (out, in) like the weight they belong to; a mask is bool, True where the weight is kept.
Among equal scores the one with the smaller index is pruned first, so every choice is deterministic.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from llmprune.algorithms.processes import Rows
from llmprune.errors import TargetError


@dataclass(frozen=True)
class Unstructured:
    """A `ratio` of all weights is zero, anywhere in the matrix. `0 <= ratio < 1`."""

    ratio: float

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise TargetError(f"The sparsity must be at least 0 and below 1, and {self.ratio:g} is not.")

    def __str__(self) -> str:
        return f"{self.ratio * 100:g}%"


@dataclass(frozen=True)
class SemiStructured:
    """`n` ZEROS in every `m` consecutive inputs of every output row. `3:4` keeps one weight of four."""

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise TargetError(
                f"The pattern {self.n}:{self.m} must have at least one zero, and fewer than {self.m}, "
                f"in every {self.m} weights."
            )

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def ratio(self) -> float:
        """The share of weights that are zero."""
        return self.n / self.m


Pattern = Unstructured | SemiStructured

# ASCII digits, and few of them: int and float read other digits, underscores, "nan" and "inf" too, an integer of
# thousands of digits is refused by Python itself, and no ratio or group needs more.
_RATIO = re.compile(r"(?P<number>\+?(?=\.?[0-9])[0-9]{0,9}(\.[0-9]{0,20})?([eE][+-]?[0-9]{1,2})?)\s*(?P<percent>%)?")
_GROUPS = re.compile(r"([0-9]{1,9}):([0-9]{1,9})")


def parse_sparsity(text: str) -> Unstructured:
    """Read `0.7` or `70%`.

    Raises:
        TargetError: anything else, or a value outside [0, 1).
    """
    match = _RATIO.fullmatch(text.strip())
    if match is None:
        raise TargetError(f"The sparsity {text!r:.50} is neither a ratio such as 0.7 nor a percentage such as 70%.")
    value = float(match["number"])
    return Unstructured(value / 100 if match["percent"] else value)


def parse_pattern(text: str) -> SemiStructured:
    """Read `2:4` (2 zeros in every 4 weights).

    Raises:
        TargetError: anything else, or no zero at all, or nothing but zeros.
    """
    match = _GROUPS.fullmatch(text.strip())
    if match is None:
        raise TargetError(f"The pattern {text!r:.50} is not of the form ZEROS:GROUP, such as 2:4.")
    return SemiStructured(int(match[1]), int(match[2]))


def check_fits(pattern: Pattern, in_features: int) -> None:
    """Raise `TargetError` when groups of `m` inputs do not divide a row of `in_features` weights."""
    if isinstance(pattern, SemiStructured) and in_features % pattern.m:
        raise TargetError(f"The pattern {pattern} needs a multiple of {pattern.m} inputs, and there are {in_features}.")


def zero_count(ratio: float, count: int) -> int:
    """How many of `count` weights are zero: `ratio * count`, halves rounded up."""
    return math.floor(ratio * count + 0.5)


def keep_largest(scores: Tensor, zeros: int) -> Tensor:
    """The mask, of any shape, that prunes exactly the `zeros` smallest entries of `scores`."""
    flat = scores.reshape(-1)
    if zeros == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = flat.kthvalue(zeros).values
    below, ties = flat < threshold, flat == threshold
    spare = zeros - below.sum()  # of the scores equal to the threshold, so many are pruned: no number leaves the device
    pruned = ties.logical_and_(ties.cumsum(0) <= spare).logical_or_(below)
    return pruned.logical_not_().view(scores.shape)


def keep_largest_in_rows(scores: Tensor, ratio: float, *, first: int = 0) -> Tensor:
    """Prune the same share of every row; rows differ by one weight so that the whole matrix is exact.

    `first` is the row of the matrix that the first of `scores` is.
    """
    rows, columns = scores.shape
    bounds = [zero_count(ratio, columns * row) for row in range(first, first + rows + 1)]
    zeros = torch.tensor(bounds, device=scores.device).diff()
    return rank(scores, dim=1) >= zeros.unsqueeze(1)


def keep_largest_in_groups(scores: Tensor, pattern: SemiStructured) -> Tensor:
    """Prune the `n` smallest of every `m` consecutive entries of a row.

    Raises `TargetError` when m does not divide the row.
    """
    check_fits(pattern, scores.shape[1])
    groups = scores.unflatten(1, (scores.shape[1] // pattern.m, pattern.m))
    return (rank(groups, dim=2) >= pattern.n).flatten(1)


def rank(scores: Tensor, *, dim: int) -> Tensor:
    """The place, from 0, of every entry in ascending order along `dim`; equal entries in index order."""
    return scores.argsort(dim=dim, stable=True).argsort(dim=dim)


def select_mask(
    scores: Tensor, pattern: Pattern, *, scope: Literal["matrix", "row"] = "matrix", rows: Rows | None = None
) -> Tensor:
    """The keep mask (out, in) that `pattern` takes from `scores` (out, in).

    `scope` is where an unstructured ratio holds: the whole matrix (magnitude) or every output row (Wanda).
    The number of zeros is exact: `zero_count(ratio, scores.numel())`, or n of every m.
    With `rows` scores and mask are a process's own rows (own rows, in) of a matrix that several divide.
    """
    rows = rows or Rows(len(scores))
    match pattern:
        case Unstructured(ratio) if scope == "matrix":
            whole = rows.join(scores)
            return keep_largest(whole, zero_count(ratio, whole.numel()))[rows.here]
        case Unstructured(ratio):
            return keep_largest_in_rows(scores, ratio, first=rows.own.start)
        case SemiStructured():
            return keep_largest_in_groups(scores, pattern)
