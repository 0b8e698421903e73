"""Factorisations of a damped Gram matrix G + damping * mean(diag G) I, shared by every solve that needs them.

SparseGPT wants a triangular factor of the inverse, ridge regression a solve alone. Layers with the same inputs (query,
key and value; gate and up) share both. Factors are made and inverted in place: beside G there is one more matrix of its
size at a time, and two while one is widened to float64.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from llmprune.choices import DAMPING
from llmprune.errors import NumericalError, UnseenInputsError

_RAISES = 3  # how often the damping is raised tenfold before giving up
_LEAST_RAISED = 1e-4  # what a damping of zero is raised to
_PANEL = 256  # columns of an inverse at a time
_STRETCH = 1 << 18  # numbers of a matrix that are turned round at a time


@dataclass(frozen=True)
class CholeskyFactor:
    """A damped Gram matrix as a triangular factor.

    Attributes:
        lower: (in, in), L with L L^T = G + shift I.
        damping: what was used, relative to the mean of the diagonal of G.
        shift: the same in G's own units.
        widened: whether it took float64 on the CPU, since the device's own factorisation in the dtype of G failed.
    """

    lower: Tensor
    damping: float
    shift: float
    widened: bool = False

    def solve(self, right: Tensor) -> Tensor:
        """`right` (any, in) times (G + shift I)^-1."""
        half = torch.linalg.solve_triangular(self.lower.T, right, upper=True, left=False)
        solved: Tensor = torch.linalg.solve_triangular(self.lower, half, upper=False, left=False)
        return solved


@dataclass(frozen=True)
class InverseFactor:
    """The inverse of a damped Gram matrix G + shift I, as a triangular factor.

    Attributes:
        upper: (in, in), U with U^T U = (G + shift I)^-1. On dead inputs the diagonal of the damped matrix is
            arbitrary, but positive.
        dead: (in,), bool: inputs that were always zero.
        damping: what was used, relative to the mean of the diagonal of G.
        shift: the same in G's own units.
        widened: as `CholeskyFactor` has it.
    """

    upper: Tensor
    dead: Tensor
    damping: float
    shift: float
    widened: bool = False

    def solve(self, right: Tensor) -> Tensor:
        """`right` (any, in) times (G + shift I)^-1."""
        return (right @ self.upper.T) @ self.upper

    def give_up(self) -> None:
        """Give the memory of `upper` back, whoever still knows the factor; it cannot be used any more."""
        self.upper.set_(self.upper.new_empty(0).untyped_storage())


def factorise(gram: Tensor, *, damping: float = DAMPING) -> InverseFactor:
    """Factorise the inverse of G + damping * mean(diag G) I.

    With rows and columns reversed A = L L^T, so A = R R^T for the upper triangular R that is L reversed, and U is R^-1:
    one factorisation and one inverse of a triangle, and A^-1 is never formed.

    Args:
        gram: (in, in) = X X^T, float32 or float64; it is not changed.
        damping: relative to the mean of the diagonal, raised where `cholesky` raises it.

    Raises:
        NumericalError: as `cholesky`.
    """
    found = reversed_cholesky(gram, damping=damping)
    upper = turned_round_(_inverted_(found.lower))
    return InverseFactor(upper.detach(), gram.diagonal() == 0, found.damping, found.shift, found.widened)


def turned_round_(matrix: Tensor) -> Tensor:
    """Reverse the order of rows and columns of a contiguous matrix, in its place."""
    flat = matrix.view(-1)
    for start in range(0, len(flat) // 2, _STRETCH):
        stop = min(start + _STRETCH, len(flat) // 2)
        front, back = flat[start:stop], flat[len(flat) - stop : len(flat) - start]
        turned = front.flip(0)
        front.copy_(back.flip(0))
        back.copy_(turned)
    return matrix


def _inverted_(lower: Tensor) -> Tensor:
    """Invert a lower triangular matrix in its place, from the last columns to the first.

    ((D, 0), (B, C))^-1 = ((D^-1, 0), (-C^-1 B D^-1, C^-1)), where C^-1 is there already.
    """
    for start in reversed(range(0, len(lower), _PANEL)):
        stop = start + _PANEL
        corner, below = lower[start:stop, start:stop], lower[stop:, start:stop]
        unit = torch.eye(len(corner), dtype=lower.dtype, device=lower.device)
        corner.copy_(torch.linalg.solve_triangular(corner, unit, upper=False))
        below.copy_(lower[stop:, stop:] @ (below @ corner)).neg_()
    return lower


def cholesky(gram: Tensor, *, damping: float = DAMPING) -> CholeskyFactor:
    """Factorise G + damping * mean(diag G) I; where that is not positive definite, with up to 1,000 times the damping.

    A factorisation that fails is tried again in float64 on the CPU before the damping is raised.

    Args:
        gram: (in, in) = X X^T, float32 or float64; it is not changed.
        damping: relative to the mean of the diagonal. It is raised tenfold, at most three times.

    Raises:
        NumericalError: no such damping helps, or G is not finite, or all zeros.
    """
    return _cholesky(gram, damping, reverse=False)


def reversed_cholesky(gram: Tensor, *, damping: float = DAMPING) -> CholeskyFactor:
    """As `cholesky`, of the same matrix with rows and columns in reversed order: what `factorise` inverts."""
    return _cholesky(gram, damping, reverse=True)


def _cholesky(gram: Tensor, damping: float, *, reverse: bool) -> CholeskyFactor:
    """As `cholesky`; with `reverse` of the matrix with rows and columns in reversed order."""
    _check(gram)
    mean = float(gram.diagonal().mean(dtype=torch.float64))
    exact = gram.dtype == torch.float64 and gram.device.type == "cpu"
    for attempt in range(_RAISES + 1):
        used = _raised(damping, attempt)
        for widened in (False,) if exact else (False, True):
            lower = _lower(_damped(gram, used * mean, mean, reverse=reverse), widened=widened)
            if lower is not None:
                return CholeskyFactor(lower, damping=used, shift=used * mean, widened=widened)
    raise NumericalError(
        f"The Gram matrix is not positive definite even with a damping of {used:g} times its mean diagonal; "
        "calibrate on more tokens or start from a larger damping."
    )


def _check(gram: Tensor) -> None:
    if not all(bool(bound.isfinite()) for bound in gram.aminmax()):  # NaN is both
        raise NumericalError("The Gram matrix holds NaN or infinity: the calibration activations are not finite.")
    if not bool((gram.diagonal() > 0).any()):
        raise UnseenInputsError("The Gram matrix is zero: all inputs of this layer were zero.")


def _raised(damping: float, attempt: int) -> float:
    if attempt == 0 or damping > 0:
        return damping * 10.0**attempt
    return _LEAST_RAISED * 10.0 ** (attempt - 1)


def _damped(gram: Tensor, shift: float, mean: float, *, reverse: bool) -> Tensor:
    """A new G + shift I, the diagonal of dead inputs `mean`."""
    damped = gram.flip(0, 1) if reverse else gram.clone()
    diagonal = damped.diagonal()
    dead = diagonal == 0
    diagonal.add_(shift).masked_fill_(dead, mean)
    return damped


def _lower(matrix: Tensor, *, widened: bool) -> Tensor | None:
    """L with L L^T = A, in the place of A where it need not be widened; None when A is not positive definite."""
    work = matrix.to("cpu", torch.float64) if widened else matrix
    work = work.T  # the same matrix, in the order of memory in which the factorisation needs no copy
    info = torch.empty((), dtype=torch.int32, device=work.device)
    try:
        torch.linalg.cholesky_ex(work, upper=True, out=(work, info))  # L^T in its order of memory, so L in that of rows
    except RuntimeError:  # a library of the device that gives up
        return None
    if int(info) != 0 or not bool(work.diagonal().isfinite().all()):
        return None
    return work.T.to(matrix.device, matrix.dtype)
