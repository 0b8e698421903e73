"""One factorisation of a damped Gram matrix, shared by every solve that needs it.

Pruning by SparseGPT and ridge regression both want the inverse of G + damping * mean(diag G) I. Layers with
the same inputs (query, key and value; gate and up) share the factor as well.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from llmprune.choices import DAMPING
from llmprune.errors import NumericalError, UnseenInputsError

_RAISES = 3  # how often the damping is raised tenfold before giving up
_LEAST_RAISED = 1e-4  # what a damping of zero is raised to


@dataclass(frozen=True)
class InverseFactor:
    """The inverse of a damped Gram matrix G + shift I, as a triangular factor.

    Attributes:
        upper: (in, in), U with U^T U = (G + shift I)^-1. On dead inputs the diagonal of the damped matrix is
            arbitrary, but positive.
        dead: (in,), bool: inputs that were always zero.
        damping: what was used, relative to the mean of the diagonal of G.
        shift: the same in G's own units.
    """

    upper: Tensor
    dead: Tensor
    damping: float
    shift: float

    def solve(self, right: Tensor) -> Tensor:
        """`right` (any, in) times (G + shift I)^-1."""
        return (right @ self.upper.T) @ self.upper


def factorise(gram: Tensor, *, damping: float = DAMPING) -> InverseFactor:
    """Factorise G + damping * mean(diag G) I; where that is not positive definite, with up to 1,000 times the damping.

    Args:
        gram: (in, in) = X X^T, float32 or float64; it is not changed.
        damping: relative to the mean of the diagonal. It is raised tenfold, at most three times.

    Raises:
        NumericalError: no such damping helps, or G is not finite, or all zeros.
    """
    _check(gram)
    diagonal = gram.diagonal()
    dead = diagonal == 0
    mean = float(diagonal.mean(dtype=torch.float64))
    for attempt in range(_RAISES + 1):
        used = _raised(damping, attempt)
        damped = gram.clone()
        damped.diagonal().add_(used * mean).masked_fill_(dead, mean)
        upper = _inverse_upper(damped)
        if upper is not None:
            return InverseFactor(upper=upper, dead=dead, damping=used, shift=used * mean)
    raise NumericalError(
        f"The Gram matrix is not positive definite even with a damping of {used:g} times its mean diagonal; "
        "calibrate on more tokens or start from a larger damping."
    )


def _check(gram: Tensor) -> None:
    if not bool(gram.isfinite().all()):
        raise NumericalError("The Gram matrix holds NaN or infinity: the calibration activations are not finite.")
    if not bool((gram.diagonal() > 0).any()):
        raise UnseenInputsError("The Gram matrix is zero: all inputs of this layer were zero.")


def _raised(damping: float, attempt: int) -> float:
    if attempt == 0 or damping > 0:
        return damping * 10.0**attempt
    return _LEAST_RAISED * 10.0 ** (attempt - 1)


def _inverse_upper(matrix: Tensor) -> Tensor | None:
    """U, upper triangular, with U^T U = A^-1; None when A is not positive definite.

    With rows and columns reversed A = L L^T, so A = R R^T for the upper triangular R that is L reversed, and
    U is R^-1: one factorisation and one triangular solve, and A^-1 is never formed.
    """
    lower, info = torch.linalg.cholesky_ex(matrix.flip(0, 1))
    if int(info) != 0 or not bool(lower.diagonal().isfinite().all()):
        return None
    identity = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
    inverse: Tensor = torch.linalg.solve_triangular(lower, identity, upper=False)
    return inverse.flip(0, 1).contiguous()
