"""One linear layer in full: a method that chooses and repairs, then the refit on its mask."""

from dataclasses import dataclass, replace
from enum import Enum

from torch import Tensor

from llmprune.algorithms.processes import Rows
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

    Attributes:
        pattern: which zeros.
        damping: of the Gram matrix, relative to its mean diagonal; SparseGPT's.
        block_size: columns whose mask is chosen at once; SparseGPT's.
        refit_steps: of conjugate gradients on the fixed mask; 0: no refit.
        method: what chooses the mask.

    Raises:
        TargetError: a damping below 0 or infinite, or a block size below 1.
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
    """Prune one layer by the method of `settings`, then refit what it keeps.

    Args:
        weight: (out, in), any float dtype; that of the result.
        gram: (in, in) = X X^T, float32 or float64.
        settings: pattern, method, refit.
        target: (out, in), the weights to prune and reproduce in place of `weight`, which then only gives the dtype.
        factor: `factorise(gram, damping=settings.damping)`, where the caller has it already.

    Raises:
        TargetError: groups of N:M do not divide the inputs.
        NumericalError: `gram` cannot be factorised, or the error is not finite.
    """
    pruned = choose_weights(weight, gram, settings, target=target, factor=factor)
    if settings.refit_steps > 0 and pruned.error > 0:
        target = weight if target is None else target
        pruned = refit(pruned, gram, target=target, steps=settings.refit_steps, missing=pruned.missing)
    return replace(pruned, missing=None)


def choose_weights(
    weight: Tensor,
    gram: Tensor,
    settings: LayerSettings,
    *,
    target: Tensor | None = None,
    factor: InverseFactor | None = None,
    rows: Rows | None = None,
    spent: bool = False,
) -> PrunedWeight:
    """As `prune_layer`, without the refit: the mask of a method, and its repair.

    With `rows`, those of the whole matrix, all is of a process's own rows: weight, target, result and errors. A factor
    that is `spent` afterwards is given up as soon as it can be.
    """
    match settings.method:
        case LayerMethod.MAGNITUDE:
            return magnitude.prune_linear(weight, gram, settings.pattern, target=target, rows=rows)
        case LayerMethod.WANDA:
            return wanda.prune_linear(weight, gram, settings.pattern, target=target, rows=rows)
        case LayerMethod.SPARSEGPT:
            return sparsegpt.prune_linear(
                weight,
                gram,
                settings.pattern,
                target=target,
                damping=settings.damping,
                block_size=settings.block_size,
                factor=factor,
                rows=rows,
                spent=spent,
            )
