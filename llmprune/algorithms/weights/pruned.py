"""What pruning one linear layer returns, and how its error is measured."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from llmprune.algorithms.weights.slabs import slabs
from llmprune.errors import NumericalError


@dataclass(frozen=True)
class PrunedWeight:
    """A pruned linear layer.

    Attributes:
        weight: (out, in), in the dtype of the weight that it replaces; zero wherever `mask` is False.
        mask: (out, in), bool, True where kept.
        error: tr((W - T) G (W - T)^T) = ||W X - T X||^2, for the weights T that were to be reproduced and the
            Gram matrix G = X X^T.
        energy: tr(T G T^T) = ||T X||^2.
        damping: the relative damping that the factorisation took, 0 where there was none.
        widened: whether a factorisation took float64 on the CPU, since the device's own failed.
        missing: (out, in), (T - W) G, with which the error was measured and a refit begins; None: it is not at hand.
    """

    weight: Tensor
    mask: Tensor
    error: float
    energy: float
    damping: float = 0.0
    widened: bool = False
    missing: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def relative_error(self) -> float:
        """`error / energy`: 0 is exact, 1 is as bad as all zeros."""
        return self.error / self.energy if self.energy > 0 else 0.0

    @property
    def zeros(self) -> int:
        """How many weights the mask prunes."""
        return int((~self.mask).sum())


def measured(
    weight: Tensor,
    mask: Tensor,
    gram: Tensor | None,
    *,
    target: Tensor,
    damping: float = 0.0,
    widened: bool = False,
) -> PrunedWeight:
    """A pruned `weight` (out, in) with its error against `target` (out, in). `gram` None stands for the identity.

    `weight` arrives in its final dtype: the error is that of the weights as they are returned.

    Raises:
        NumericalError: the error is not finite.
    """
    dtype = working_dtype(target, gram)
    gram = None if gram is None else gram.to(dtype)
    missing = None if gram is None else torch.empty_like(target, dtype=dtype, memory_format=torch.contiguous_format)
    error = energy = 0.0
    for rows in slabs(target):
        goal = target[rows].to(dtype)
        energy += quadratic(goal, gram)
        away = goal - weight[rows].to(dtype)
        if gram is None or missing is None:
            error += quadratic(away, None)
        else:
            error += _not_negative(torch.mm(away, gram, out=missing[rows]), away)
    if not (error < float("inf") and energy < float("inf")):
        raise NumericalError("The pruned weights or their activations hold NaN or infinity.")
    return PrunedWeight(weight, mask, error=error, energy=energy, damping=damping, widened=widened, missing=missing)


def error_against(target: Tensor, weight: Tensor, gram: Tensor | None) -> float:
    """tr((W - T) G (W - T)^T) for W `weight` and T `target`, both (out, in)."""
    dtype = working_dtype(target, gram)
    return quadratic(weight.to(dtype) - target.to(dtype), gram)


def quadratic(matrix: Tensor, gram: Tensor | None) -> float:
    """tr(M G M^T) for M (out, in) and G (in, in), or the identity for None; in float64, never below 0."""
    return _not_negative(matrix if gram is None else matrix @ gram.to(matrix.dtype), matrix)


def _not_negative(product: Tensor, matrix: Tensor) -> float:
    """The inner product of two matrices in float64, where no rounding makes it less than 0."""
    value = float((product * matrix).sum(dtype=torch.float64))
    return 0.0 if value < 0 else value  # NaN stays NaN


def working_dtype(weight: Tensor, gram: Tensor | None) -> torch.dtype:
    """Float32, or float64 as soon as one of the two is float64."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    return wide if gram is None else torch.promote_types(wide, gram.dtype)
