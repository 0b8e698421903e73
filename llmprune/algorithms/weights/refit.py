"""Least squares on a fixed mask: the kept weights move, the zeros stay.

Minimises tr((W - T) G (W - T)^T) over the kept entries by conjugate gradients with the Jacobi preconditioner.
Rows are independent problems; all of them step together, as one matrix product a step.
"""

import torch
from torch import Tensor

from llmprune.algorithms.weights.pruned import PrunedWeight, finish, working_dtype


def refit(pruned: PrunedWeight, gram: Tensor, *, target: Tensor, steps: int = 10) -> PrunedWeight:
    """Refit the kept weights of `pruned` to `target` (out, in) on the inputs behind `gram` (in, in).

    Computed in float32, or float64 if `target` or `gram` is, and cast back to the dtype of `pruned.weight`.
    The mask is unchanged, and where the error, measured after the cast, did not fall `pruned` itself is
    returned.
    """
    dtype = working_dtype(target, gram)
    start = pruned.weight.to(dtype)
    weight = _conjugate_gradients(start, gram.to(dtype), target.to(dtype), pruned.mask.to(dtype), steps)
    refitted = finish(weight.to(pruned.weight.dtype), pruned.mask, gram, target=target, damping=pruned.damping)
    return refitted if refitted.error < pruned.error else pruned


def _conjugate_gradients(start: Tensor, gram: Tensor, target: Tensor, mask: Tensor, steps: int) -> Tensor:
    """`steps` steps from `start`; all (out, in), `mask` 1 where kept. A row that has converged stays put."""
    diagonal = gram.diagonal()
    inverse_diagonal = torch.where(diagonal > 0, diagonal, 1).reciprocal()
    weight = start.clone()
    residual = ((target - weight) @ gram).mul_(mask)  # minus half the gradient
    scaled = residual * inverse_diagonal
    direction = scaled.clone()
    slope = (residual * scaled).sum(dim=1, keepdim=True)
    for _ in range(steps):
        image = (direction @ gram).mul_(mask)
        length = _divide(slope, (direction * image).sum(dim=1, keepdim=True))
        weight.addcmul_(length, direction)
        residual.addcmul_(length, image, value=-1)
        torch.mul(residual, inverse_diagonal, out=scaled)
        previous, slope = slope, (residual * scaled).sum(dim=1, keepdim=True)
        direction = torch.addcmul(scaled, _divide(slope, previous), direction)
    return weight


def _divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, and 0 where the denominator is not positive: there the row has nothing left to gain."""
    return torch.where(denominator > 0, numerator / denominator, 0)
