"""Least squares on a fixed mask: the kept weights move, the zeros stay.

Minimises tr((W - T) G (W - T)^T) over the kept entries by preconditioned conjugate gradients (Hestenes & Stiefel,
1952). Rows are independent problems, each with its own part of G. All of them step together, as one matrix product
a step, where exact solutions would take a factorisation for every row.
"""

from dataclasses import replace

import torch
from torch import Tensor

from llmprune.algorithms.processes import ALONE, Processes
from llmprune.algorithms.weights.pruned import PrunedWeight, error_against, working_dtype
from llmprune.algorithms.weights.slabs import slabs
from llmprune.choices import REFIT_STEPS
from llmprune.errors import NumericalError


def refit(
    pruned: PrunedWeight,
    gram: Tensor,
    *,
    target: Tensor,
    steps: int = REFIT_STEPS,
    processes: Processes = ALONE,
    missing: Tensor | None = None,
) -> PrunedWeight:
    """Move the kept weights of `pruned` towards `target` on the inputs behind `gram`.

    Args:
        pruned: weights and mask (out, in). The mask stays.
        gram: (in, in) = X X^T, float32 or float64.
        target: (out, in), the weights T whose outputs are to be reproduced.
        steps: of conjugate gradients.
        processes: that divide the rows among them: weights, mask, target, `missing` and result are a process's own
            rows, errors those of all.
        missing: (out, in), (T - W) G for the weights W of `pruned`, where the caller has it; None: it is computed.

    Returns:
        The new weights in the dtype of `pruned.weight`, computed in float32, or in float64 where `target` or
        `gram` is. `pruned` itself where the error, measured after the cast, did not fall.

    Raises:
        NumericalError: the error is not finite.
    """
    dtype = working_dtype(target, gram)
    gram = gram.to(dtype)
    weight, part = torch.empty_like(pruned.weight, memory_format=torch.contiguous_format), 0.0
    for rows in slabs(weight):
        start, goal, mask = (matrix[rows].to(dtype) for matrix in (pruned.weight, target, pruned.mask))
        away = (goal - start) @ gram if missing is None else missing[rows].to(dtype)
        weight[rows] = _conjugate_gradients(start, gram, away, mask, steps)
        part += error_against(goal, weight[rows], gram)
    odd = NumericalError("The refitted weights or their activations hold NaN or infinity.")
    error = sum(processes.agree(part if part < float("inf") else odd))
    return pruned if error >= pruned.error else replace(pruned, weight=weight, error=error, missing=None)


def _conjugate_gradients(start: Tensor, gram: Tensor, missing: Tensor, mask: Tensor, steps: int) -> Tensor:
    """`steps` steps from `start`; all (out, in), `mask` 1 where kept; a row that has converged stays put.

    `missing` is (T - W) G for the `start` W. The system of a row is A w = b with A = M G M and b = M G t, for the row's
    mask M. Names as usual: residual r = b - A w, preconditioned residual z = D^-1 r with the Jacobi preconditioner
    D = diag(G), direction p, step length alpha = (r, z) / (p, A p), beta = (r, z) / (r, z) of the step before.
    """
    diagonal = gram.diagonal()
    inverse_diagonal = torch.where(diagonal > 0, diagonal, 1).reciprocal()
    weight = start.clone()
    r = missing * mask
    z = r * inverse_diagonal
    p = z.clone()
    rz = (r * z).sum(dim=1, keepdim=True)
    for _ in range(steps):
        ap = (p @ gram).mul_(mask)
        alpha = _divide(rz, (p * ap).sum(dim=1, keepdim=True))
        weight.addcmul_(alpha, p)
        r.addcmul_(alpha, ap, value=-1)
        torch.mul(r, inverse_diagonal, out=z)
        previous, rz = rz, (r * z).sum(dim=1, keepdim=True)
        beta = _divide(rz, previous)
        p = torch.addcmul(z, beta, p)
    return weight


def _divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, and 0 where the denominator is not positive: there the row has nothing left to gain."""
    return torch.where(denominator > 0, numerator / denominator, 0)
