"""Weights out of nothing: to see how a block works where its own need not be read."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_POOL = 1_000_003  # random numbers; a prime, so that no two rows of a matrix are the same
_SQRT_3 = 1.7320508  # uniform in (-sqrt 3, sqrt 3) has the variance 1


class RandomWeights:
    """Tensors that are random enough to tell what a block computes, as fast as memory can be written.

    Matrices have the variance 1 / inputs, so that states neither grow nor vanish; vectors lie in (0.5, 1.5).
    Equal sizes asked for in equal order give equal numbers.

    Args:
        device: where they are.
    """

    def __init__(self, device: torch.device) -> None:
        uniform = torch.rand(_POOL, generator=torch.Generator().manual_seed(0))
        self._pool = (2 * uniform - 1).to(device)

    def of(self, shape: torch.Size, dtype: torch.dtype, *, start: int = 0) -> Tensor:
        """A tensor of a shape; ``start`` tells equal shapes apart."""
        begin = 1009 * start % _POOL
        times = -(-(begin + shape.numel()) // _POOL)
        pool = self._pool.to(dtype).repeat(times) if times > 1 else self._pool
        values: Tensor = pool[begin : begin + shape.numel()].to(dtype).view(shape)
        return values * (_SQRT_3 * shape[-1] ** -0.5) if len(shape) > 1 else 0.5 * values + 1

    def fill(self, module: nn.Module, *, besides: Iterable[nn.Parameter] = ()) -> None:
        """Give every parameter of a module a value, whether or not it had one, and every buffer that has none.

        Args:
            module: any part of a model.
            besides: parameters that stay as they are.
        """
        kept = {id(parameter) for parameter in besides}
        made: dict[int, nn.Parameter] = {}
        for part in module.modules():
            for name, old in list(part.named_parameters(recurse=False, remove_duplicate=False)):
                if id(old) in kept:
                    continue
                if id(old) not in made:
                    value = self.of(old.shape, old.dtype, start=len(made))
                    made[id(old)] = nn.Parameter(value, requires_grad=False)
                setattr(part, name, made[id(old)])
            for name, buffer in part.named_buffers(recurse=False):
                if buffer.is_meta:
                    setattr(part, name, self.of(buffer.shape, buffer.dtype))
