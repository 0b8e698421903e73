"""Ridge regression from Gram matrices.

Both are solutions of  min over T of  ||T X - Z||^2 + shift ||T - prior||^2  where `shift` is the damping of
the factor.
"""

from torch import Tensor

from llmprune.algorithms.weights.factor import InverseFactor


def ridge(cross: Tensor, factor: InverseFactor) -> Tensor:
    """T = Z X^T (X X^T + shift I)^-1, (out, in), for `cross` (out, in) = Z X^T: the prior is zero."""
    return factor.solve(cross)


def ridge_towards(prior: Tensor, cross: Tensor, gram: Tensor, factor: InverseFactor) -> Tensor:
    """T = (Z X^T + shift prior)(X X^T + shift I)^-1, (out, in).

    `prior` (out, in) are usually the dense weights, of any float dtype; `cross` (out, in) = Z X^T and `gram`
    (in, in) = X X^T share the dtype of the result. Written as a correction of the prior, which loses fewer
    digits and leaves the weights of dead inputs exactly as they were.
    """
    wide = prior.to(cross.dtype)
    return wide + factor.solve(cross - wide @ gram)
