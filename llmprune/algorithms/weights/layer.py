"""One linear layer in full: a method that chooses and repairs, then the refit on its mask."""

from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from llmprune.algorithms.weights import magnitude, sparsegpt, wanda
from llmprune.algorithms.weights.factor import InverseFactor
from llmprune.algorithms.weights.patterns import Pattern
from llmprune.algorithms.weights.pruned import PrunedWeight
from llmprune.algorithms.weights.refit import refit
from llmprune.choices import BLOCK_SIZE, DAMPING, REFIT_STEPS
from llmprune.errors import TargetError


class LayerMethod(Enum):
    """What chooses the mask of a layer; SparseGPT also moves the weights that it keeps."""

    MAGNITUDE = "magnitude"
    WANDA = "wanda"
    SPARSEGPT = "sparsegpt"


@dataclass(frozen=True)
class LayerSettings:
    """How a layer is pruned.

    `damping` is relative to the mean diagonal of the Gram matrix; it and `block_size` are SparseGPT's.
    Without `refit_steps` there is no refit.
    """

    pattern: Pattern
    damping: float = DAMPING
    block_size: int = BLOCK_SIZE
    refit_steps: int = REFIT_STEPS
    method: LayerMethod = LayerMethod.SPARSEGPT

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
    """The method's `prune_linear` and `refit`, with their shapes, dtypes and errors."""
    pruned = _prune(weight, gram, settings, target, factor)
    if settings.refit_steps == 0 or pruned.error == 0:
        return pruned
    return refit(pruned, gram, target=weight if target is None else target, steps=settings.refit_steps)


def _prune(
    weight: Tensor, gram: Tensor, settings: LayerSettings, target: Tensor | None, factor: InverseFactor | None
) -> PrunedWeight:
    match settings.method:
        case LayerMethod.MAGNITUDE:
            return magnitude.prune_linear(weight, gram, settings.pattern, target=target)
        case LayerMethod.WANDA:
            return wanda.prune_linear(weight, gram, settings.pattern, target=target)
        case LayerMethod.SPARSEGPT:
            return sparsegpt.prune_linear(
                weight,
                gram,
                settings.pattern,
                target=target,
                damping=settings.damping,
                block_size=settings.block_size,
                factor=factor,
            )
