"""One linear layer in full: SparseGPT, then the refit on its mask."""

from dataclasses import dataclass

from torch import Tensor

from llmprune.algorithms import sparsegpt
from llmprune.algorithms.factor import InverseFactor
from llmprune.algorithms.patterns import Pattern
from llmprune.algorithms.pruned import PrunedWeight
from llmprune.algorithms.refit import refit
from llmprune.errors import TargetError


@dataclass(frozen=True)
class LayerSettings:
    """How a layer is pruned.

    `damping` is relative to the mean diagonal of the Gram matrix; without `refit_steps` there is no refit.
    """

    pattern: Pattern
    damping: float = 0.01
    block_size: int = 128
    refit_steps: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.damping < float("inf"):
            raise TargetError(f"The damping must be at least 0, and {self.damping:g} is not.")
        if self.block_size < 1:
            raise TargetError(f"The block size must be at least 1, and {self.block_size} is not.")


def prune_layer(
    weight: Tensor,
    gram: Tensor,
    settings: LayerSettings,
    *,
    target: Tensor | None = None,
    factor: InverseFactor | None = None,
) -> PrunedWeight:
    """`sparsegpt.prune_linear` and `refit`, with their shapes, dtypes and errors."""
    pruned = sparsegpt.prune_linear(
        weight,
        gram,
        settings.pattern,
        target=target,
        damping=settings.damping,
        block_size=settings.block_size,
        factor=factor,
    )
    if settings.refit_steps == 0 or pruned.error == 0:
        return pruned
    return refit(pruned, gram, target=weight if target is None else target, steps=settings.refit_steps)
