"""Magnitude pruning: the smallest weights go, the others stay as they are."""

from torch import Tensor

from llmprune.algorithms.processes import Rows
from llmprune.algorithms.weights.patterns import Pattern, check_fits, select_mask
from llmprune.algorithms.weights.pruned import PrunedWeight, measured


def prune_linear(
    weight: Tensor,
    gram: Tensor | None,
    pattern: Pattern,
    *,
    target: Tensor | None = None,
    rows: Rows | None = None,
) -> PrunedWeight:
    """Zero the weights of smallest magnitude; a ratio holds for the whole matrix.

    Args:
        weight: (out, in), any float dtype; that of the result.
        gram: (in, in) = X X^T, float32 or float64: only measures the error; None stands for the identity.
        pattern: which zeros.
        target: (out, in), the weights to prune and reproduce in place of `weight`, which then only gives the dtype.
        rows: of the whole matrix, where weight, target and result are a process's own (own rows, in); errors, too.

    Raises:
        TargetError: groups of N:M do not divide the inputs.
        NumericalError: the error is not finite.
    """
    check_fits(pattern, weight.shape[1])
    target = weight if target is None else target
    mask = select_mask(target.abs(), pattern, rows=rows)
    pruned = target.to(weight.dtype).masked_fill(~mask, 0)
    return measured(pruned, mask, gram, target=target)
