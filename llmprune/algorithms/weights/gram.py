"""Streaming second moments of activations: X X^T, Z X^T, ||X_j||^2 and the number of tokens.

Chunks are (tokens, features), as a model yields them; the sums are what every least-squares problem of
pruning needs, so that no more than a chunk of activations is ever held. Chunks are widened to float32 before
they are multiplied (a bfloat16 product would be rounded chunk by chunk), and the first chunk decides: float64
chunks have float64 sums. A caller who wants the products themselves in bfloat16 sets that around `update`.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

_PANEL = 256  # rows of X X^T at a time: only what lies on or above their diagonal is computed


@dataclass(frozen=True)
class Gram:
    """`matrix` (in, in) = X X^T, summed and not averaged over `tokens` tokens."""

    matrix: Tensor
    tokens: int

    @property
    def square_sums(self) -> Tensor:
        """||X_j||^2 of every input (in,): the diagonal."""
        return self.matrix.diagonal()


@dataclass(frozen=True)
class Cross:
    """`matrix` (out, in) = Z X^T, summed over `tokens` tokens."""

    matrix: Tensor
    tokens: int


@dataclass(frozen=True)
class SquareSums:
    """`values` (in,) = ||X_j||^2, summed over `tokens` tokens: all that Wanda needs."""

    values: Tensor
    tokens: int


class GramAccumulator:
    """Adds up X X^T of chunks (tokens, features)."""

    def __init__(self) -> None:
        self._upper: Tensor | None = None
        self._tokens = 0

    def update(self, chunk: Tensor) -> Self:
        """Add a chunk (tokens, features) of any float dtype. The chunk is not changed."""
        features = chunk.shape[1]
        if self._upper is None:
            self._upper = _zeros(chunk, features, features)
        wide = chunk.to(self._upper.dtype)
        for start in range(0, features, _PANEL):
            rows = slice(start, start + _PANEL)
            self._upper[rows, start:].addmm_(wide[:, rows].T, wide[:, start:])
        self._tokens += len(chunk)
        return self

    def result(self) -> Gram:
        """What has been added so far, exactly symmetric; later updates do not change it."""
        upper = _not_empty(self._upper)
        return Gram(matrix=upper.triu() + upper.triu(1).T, tokens=self._tokens)


class CrossAccumulator:
    """Adds up Z X^T of pairs of chunks, (tokens, out) and (tokens, in)."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._tokens = 0

    def update(self, outputs: Tensor, inputs: Tensor) -> Self:
        """Add `outputs` (tokens, out) against `inputs` (tokens, in). Neither is changed."""
        if self._sum is None:
            self._sum = _zeros(outputs, outputs.shape[1], inputs.shape[1])
        self._sum.addmm_(outputs.to(self._sum.dtype).T, inputs.to(self._sum.dtype))
        self._tokens += len(inputs)
        return self

    def result(self) -> Cross:
        """What has been added so far; later updates do not change it."""
        return Cross(matrix=_not_empty(self._sum).clone(), tokens=self._tokens)


class SquareSumsAccumulator:
    """Adds up ||X_j||^2 of chunks (tokens, features)."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._tokens = 0

    def update(self, chunk: Tensor) -> Self:
        """Add a chunk (tokens, features) of any float dtype. The chunk is not changed."""
        if self._sum is None:
            self._sum = _zeros(chunk, chunk.shape[1])
        self._sum += chunk.to(self._sum.dtype).square().sum(dim=0)
        self._tokens += len(chunk)
        return self

    def result(self) -> SquareSums:
        """What has been added so far; later updates do not change it."""
        return SquareSums(values=_not_empty(self._sum).clone(), tokens=self._tokens)


def _zeros(like: Tensor, *shape: int) -> Tensor:
    """Zeros on the device of `like`, in its dtype but never narrower than float32."""
    return torch.zeros(*shape, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)


def _not_empty(total: Tensor | None) -> Tensor:
    if total is None:
        raise ValueError("No chunk has been added.")
    return total
