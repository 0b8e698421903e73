"""Which experts of a mixture matter: REAP (Lasby et al., 2025, arXiv 2510.13999)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class ExpertStatistics:
    """Adds up, over the tokens of one block, what each of its experts gives.

    Args:
        experts: how many there are.
    """

    def __init__(self, experts: int) -> None:
        self._tokens = torch.zeros(experts, dtype=torch.int64)
        self._weighted = torch.zeros(experts, dtype=torch.float64)

    def update(self, expert: int, gates: Tensor, outputs: Tensor) -> None:
        """Add tokens that the router sent to an expert.

        Args:
            expert: which.
            gates: (tokens,), what its outputs are multiplied by.
            outputs: (tokens, out), before that.
        """
        self._tokens[expert] += len(gates)
        self._weighted[expert] += float((gates.double() * outputs.double().norm(dim=1)).sum())

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens that each expert was sent."""
        return tuple(self._tokens.tolist())

    @property
    def reap(self) -> tuple[float, ...]:
        """The mean over its tokens of gate times output norm; 0 where it was sent none."""
        return tuple((self._weighted / self._tokens.clamp(min=1)).tolist())


def least_important(scores: Sequence[float], *, count: int, groups: int = 1) -> tuple[int, ...]:
    """The ``count`` experts of the smallest scores, in ascending order: as many of each group of neighbours.

    Among equal scores the one with the larger index goes.

    Args:
        scores: of every expert; groups are of equal size.
        count: a multiple of ``groups``.
        groups: how many.
    """
    size = len(scores) // groups
    gone: list[int] = []
    for start in range(0, len(scores), size):
        order = sorted(range(start, start + size), key=lambda expert: (scores[expert], -expert))
        gone += order[: count // groups]
    return tuple(sorted(gone))
