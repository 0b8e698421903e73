"""The correction of one layer: ridge regression from moments, on all weights or on those that a mask keeps.

    min_D ||R - D A||^2 + lambda ||D||^2        D = R A^T (A A^T + lambda I)^-1

lambda is relative to the mean diagonal of A A^T. A bias is corrected with the weight and is not held back: the sums are
centred, which removes it from the problem, and it is what brings the mean of what is left to zero. Where a mask is
fixed, each row has its own part of A A^T; conjugate gradients step in all rows together, as in the refit of weight
pruning.

The same with A the hidden states before a hole, and R what the hole took from them, is the full linear map over the
hole (arXiv 2605.15491). No block of a stock model has such a map, so it is an upper bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llmprune.algorithms.healing.moments import Moments
from llmprune.algorithms.weights.factor import factorise
from llmprune.algorithms.weights.pruned import measured
from llmprune.algorithms.weights.refit import refit

_STEPS = 20  # of conjugate gradients; a ridge leaves well-conditioned systems


@dataclass(frozen=True)
class Correction:
    """What is to be added to a layer.

    Attributes:
        weight: (out, in), zero where a mask is fixed at zero.
        bias: (out,); None where the layer has none.
        ridge: that the solve took, relative to the mean diagonal; larger than asked for where it had to be raised.
    """

    weight: Tensor
    bias: Tensor | None
    ridge: float


def correct(moments: Moments, *, ridge: float, mask: Tensor | None = None, steps: int = _STEPS) -> Correction:
    """The correction that gives best what is lacking.

    Args:
        moments: of the layer's inputs and of what its output lacks.
        ridge: lambda, relative to the mean diagonal of the (centred) Gram matrix.
        mask: (out, in), bool, True where a weight may change; None: everywhere.
        steps: of conjugate gradients, where there is a mask.

    Returns:
        The correction, in the dtype of the moments.

    Raises:
        NumericalError: the Gram matrix is not finite, all zeros, or not positive definite even with a larger ridge.
    """
    gram, cross = _centred(moments)
    factor = factorise(gram, damping=ridge)
    weight = factor.solve(cross)
    if mask is not None:
        held = gram.clone()
        held.diagonal().add_(factor.shift)
        start = measured(torch.zeros_like(weight), mask, held, target=weight)
        weight = refit(start, held, target=weight, steps=steps).weight
    return Correction(weight, _bias(moments, weight), factor.damping)


def remaining_error(moments: Moments, correction: Correction) -> float:
    """||R - D A||^2 of a correction D (bias included), on the tokens of `moments`; never below 0."""
    change = correction.weight
    if moments.bias:
        assert correction.bias is not None
        change = torch.cat([change, correction.bias[:, None]], dim=1)
    change = change.to(moments.gram.dtype)
    gain = float(((change @ moments.gram - 2 * moments.cross) * change).sum(dtype=torch.float64))
    return max(0.0, moments.energy + gain)


def _centred(moments: Moments) -> tuple[Tensor, Tensor]:
    """Gram and cross moments of the inputs alone, less what a bias takes up."""
    if not moments.bias:
        return moments.gram, moments.cross
    sums = moments.gram[-1, :-1]
    mean = sums / moments.gram[-1, -1]
    return moments.gram[:-1, :-1] - torch.outer(sums, mean), moments.cross[:, :-1] - torch.outer(
        moments.cross[:, -1], mean
    )


def _bias(moments: Moments, weight: Tensor) -> Tensor | None:
    """What brings the mean of R - D A to zero."""
    if not moments.bias:
        return None
    return (moments.cross[:, -1] - weight @ moments.gram[-1, :-1]) / moments.gram[-1, -1]
