"""Sums that are recognised in half precision too."""

from __future__ import annotations

import torch
from torch import Tensor


def is_sum(output: Tensor, rest: Tensor, own: Tensor) -> bool:
    """Whether ``output`` is ``rest`` and ``own``, but for rounding, at every token.

    Where ``own`` is within the rounding at all tokens, nothing tells, and it is not.

    Args:
        output: (..., hidden_size), in the dtype that it was computed in.
        rest: the same.
        own: as many numbers in float32.
    """
    whole, part, own = (one.float().reshape(-1, output.shape[-1]) for one in (output, rest, own))
    energies = sum(one.square().sum(-1) for one in (whole, part, own))
    rounding = torch.finfo(output.dtype).eps ** 2 * energies  # of one addition less than a quarter
    missed = (whole - part - own).square().sum(-1)
    seen = own.square().sum(-1)
    fits = (missed <= rounding + 1e-6 * seen).all()
    return bool(fits and ((seen > rounding).any() or not seen.any()))
