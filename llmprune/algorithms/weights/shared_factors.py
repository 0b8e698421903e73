"""Factors of one Gram matrix for several processes: what takes n^3 steps is done once, not by each of them.

A Cholesky factorisation cannot be divided well, so each has an owner, which hands its factor to the others. The inverse
of a triangular factor can be: its columns are independent. What is n^2 for every row of a weight (targets, masks, the
refit) is more, and is divided by rows elsewhere: all processes need all of the factors for that. Beside the Gram matrix
several processes have three more of its size at a time, at most, where both factors are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from llmprune.algorithms.processes import Processes, owners
from llmprune.algorithms.weights.factor import (
    CholeskyFactor,
    InverseFactor,
    cholesky,
    factorise,
    reversed_cholesky,
    turned_round_,
)
from llmprune.errors import NumericalError

_PANEL = 256  # columns of an inverse at a time: above each panel are zeros, which are not computed


@dataclass(frozen=True)
class _Numbers:
    """Of a ``CholeskyFactor``."""

    damping: float
    shift: float
    widened: bool


def shared_factors(
    gram: Tensor, processes: Processes, *, inverse: float | None, solve: float | None
) -> tuple[InverseFactor | None, CholeskyFactor | None]:
    """``factorise(gram, damping=inverse)`` and ``cholesky(gram, damping=solve)``, each where a damping is given.

    Args:
        gram: (in, in) = X X^T, float32 or float64, the same on all processes; it is not changed.
        processes: that divide the work. All get the same factors.
        inverse: damping of the factor of the inverse; None: it is not asked for.
        solve: damping of the factor to solve with; likewise.

    Raises:
        NumericalError: as ``cholesky``, on all processes.
    """
    if processes.size == 1:
        made = None if inverse is None else factorise(gram, damping=inverse)
        return made, None if solve is None else cholesky(gram, damping=solve)
    work: list[Callable[[], CholeskyFactor]] = []
    if inverse is not None:
        work.append(lambda: reversed_cholesky(gram, damping=inverse))
    if solve is not None:
        work.append(lambda: cholesky(gram, damping=solve))
    found = _by_owners(work, gram, processes)
    made = None
    if inverse is not None:
        first = found.pop(0)
        damping, shift, widened = first.damping, first.shift, first.widened
        inverted = _inverse(first.lower, processes)
        made = InverseFactor(turned_round_(inverted), gram.diagonal() == 0, damping, shift, widened)
    return made, found[0] if found else None


def _by_owners(work: list[Callable[[], CholeskyFactor]], gram: Tensor, processes: Processes) -> list[CholeskyFactor]:
    """Each factor, made by its owner, on all processes."""
    chosen = owners([float(len(gram)) ** 3] * len(work), processes.size)
    own: dict[int, CholeskyFactor] = {}
    outcome: list[_Numbers] | NumericalError = []
    try:
        own = {place: make() for place, make in enumerate(work) if chosen[place] == processes.rank}
        outcome = [_Numbers(one.damping, one.shift, one.widened) for one in own.values()]
    except NumericalError as error:
        outcome = error
    numbers = [iter(one) for one in processes.agree(outcome)]
    factors = []
    for place, owner in enumerate(chosen):
        known = own.get(place)
        lower = torch.empty_like(gram) if known is None else known.lower.contiguous()
        factors.append(CholeskyFactor(processes.broadcast(lower, owner), **vars(next(numbers[owner]))))
    return factors


def _inverse(lower: Tensor, processes: Processes) -> Tensor:
    """The inverse of a lower triangular matrix (n, n), each process's columns as many as have its share of the work."""
    n, size = len(lower), processes.size
    bounds = [round(n * (1 - (1 - part / size) ** (1 / 3))) for part in range(size + 1)]  # n^3 / 6 in equal shares
    inverse = torch.zeros_like(lower)
    for owner, (start, stop) in enumerate(pairwise(bounds)):
        part = lower.new_zeros(n - start, stop - start)
        if owner == processes.rank:
            for left in range(start, stop, _PANEL):
                right = min(left + _PANEL, stop)
                unit = torch.eye(n - left, right - left, dtype=lower.dtype, device=lower.device)
                solved = torch.linalg.solve_triangular(lower[left:, left:], unit, upper=False)
                part[left - start :, left - start : right - start] = solved
        if part.numel():
            inverse[start:, start:stop] = processes.broadcast(part, owner)
    return inverse
