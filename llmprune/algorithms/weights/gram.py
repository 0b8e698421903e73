"""Streaming second moments of activations: X X^T and Z X^T.

Chunks are (tokens, features), as a model yields them. The sums are what every least-squares problem of
pruning needs, so that no more than a chunk of activations is ever held. Chunks are widened to float32 before
they are multiplied: a bfloat16 product would be rounded chunk by chunk. The first chunk decides: float64 chunks
have float64 sums. A caller who wants the products themselves in bfloat16 sets that around `update`.
"""

from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from llmprune.algorithms.processes import ALONE, Processes

_PANELS = 16  # of the rows of X X^T. Only what lies on or above their diagonal is computed: 53% of the products.
_NARROWEST = 128  # rows of a panel: with fewer a product is slower than what it saves. 61% at 576 inputs


class GramAccumulator:
    """Adds up X X^T of chunks (tokens, features), over tokens and not averaged."""

    def __init__(self) -> None:
        self._upper: Tensor | None = None

    def update(self, chunk: Tensor) -> Self:
        """Add a chunk (tokens, features) of any float dtype. The chunk is not changed."""
        features = chunk.shape[1]
        if self._upper is None:
            self._upper = _zeros(chunk, features, features)
        wide = chunk.to(self._upper.dtype)
        for rows in _panels(features):
            self._upper[rows, rows.start :].addmm_(wide[:, rows].T, wide[:, rows.start :])
        return self

    def result(self) -> Tensor:
        """X X^T (features, features) of all chunks so far, exactly symmetric. Later updates do not change it.

        Raises:
            ValueError: no chunk has been added.
        """
        return _mirrored(_not_empty(self._upper).clone())

    def take(self, processes: Processes = ALONE) -> Tensor:
        """`result` without a copy: the sum is given away, and begins anew.

        Args:
            processes: each of which has some of the tokens. What they sum up is little more than half of the matrix.

        Raises:
            ValueError: no chunk has been added.
        """
        upper, self._upper = _not_empty(self._upper), None
        if processes.size > 1:
            for rows in _panels(len(upper)):
                panel = upper[rows, rows.start :]
                panel.copy_(processes.sum(panel.contiguous()))
        return _mirrored(upper)


class CrossAccumulator:
    """Adds up Z X^T of pairs of chunks, (tokens, out) and (tokens, in)."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None

    def update(self, outputs: Tensor, inputs: Tensor) -> Self:
        """Add `outputs` Z (tokens, out) against `inputs` X (tokens, in). Neither is changed."""
        if self._sum is None:
            self._sum = _zeros(outputs, outputs.shape[1], inputs.shape[1])
        self._sum.addmm_(outputs.to(self._sum.dtype).T, inputs.to(self._sum.dtype))
        return self

    def result(self) -> Tensor:
        """Z X^T (out, in) of all pairs so far. Later updates do not change it.

        Raises:
            ValueError: no pair has been added.
        """
        return _not_empty(self._sum).clone()

    def take(self, processes: Processes = ALONE) -> Tensor:
        """`result` without a copy: the sum is given away, and begins anew.

        Args:
            processes: each of which has some of the tokens.

        Raises:
            ValueError: no pair has been added.
        """
        matrix, self._sum = _not_empty(self._sum), None
        return processes.sum(matrix)

    def take_rows(self, processes: Processes = ALONE) -> Tensor:
        """As `take`, this process's share of the rows alone: (own rows, in)."""
        matrix, self._sum = _not_empty(self._sum), None
        return processes.sum_rows(matrix)


def gram_products(features: int) -> int:
    """Multiplications of one token, each with an addition: of ``features`` inputs with one another."""
    return sum((rows.stop - rows.start) * (features - rows.start) for rows in _panels(features))


def _mirrored(upper: Tensor) -> Tensor:
    """A symmetric matrix, in the place of one that holds what lies on or above its diagonal."""
    for rows in _panels(len(upper)):
        square = upper[rows, rows]
        square.copy_(square.triu() + square.triu(1).T)
        upper[rows.stop :, rows] = upper[rows, rows.stop :].T
    return upper


def _panels(features: int) -> Iterator[slice]:
    """Rows of a square matrix, panel by panel."""
    height = max(_NARROWEST, -(-features // _PANELS))
    for start in range(0, features, height):
        yield slice(start, min(start + height, features))


def _zeros(like: Tensor, *shape: int) -> Tensor:
    """Zeros on the device of `like`, in its dtype but never narrower than float32."""
    return torch.zeros(*shape, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)


def _not_empty(total: Tensor | None) -> Tensor:
    if total is None:
        raise ValueError("No chunk has been added.")
    return total
