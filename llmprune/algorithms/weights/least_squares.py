"""Ridge regression from moments: the least-squares targets of weights."""

import torch
from torch import Tensor

from llmprune.algorithms.weights.factor import CholeskyFactor, InverseFactor
from llmprune.algorithms.weights.slabs import slabs


def ridge_towards(prior: Tensor, cross: Tensor, gram: Tensor, factor: CholeskyFactor | InverseFactor) -> Tensor:
    """T = (Z X^T + shift prior)(X X^T + shift I)^-1, the minimiser of ||T X - Z||^2 + shift ||T - prior||^2.

    Written as a correction of the prior, T = prior + (Z X^T - prior X X^T)(X X^T + shift I)^-1, which loses fewer
    digits and leaves the weights of dead inputs exactly as they were.

    Args:
        prior: (out, in), usually the dense weights, of any float dtype.
        cross: (out, in) = Z X^T, for the outputs Z to be given.
        gram: (in, in) = X X^T, in the dtype of `cross`.
        factor: of `gram`; `shift` is its damping.

    Returns:
        T (out, in), in the dtype of `cross`.
    """
    target = torch.empty_like(cross, memory_format=torch.contiguous_format)
    for rows in slabs(cross):
        wide = prior[rows].to(cross.dtype)
        torch.add(wide, factor.solve(cross[rows] - wide @ gram), out=target[rows])
    return target
