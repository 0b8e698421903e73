"""Magnitude pruning: the smallest weights go, the others stay as they are."""

from torch import Tensor

from llmprune.algorithms.weights.patterns import Pattern, check_fits, select_mask
from llmprune.algorithms.weights.pruned import PrunedWeight, finish


def prune_linear(
    weight: Tensor, gram: Tensor | None, pattern: Pattern, *, target: Tensor | None = None
) -> PrunedWeight:
    """Zero the weights of smallest magnitude; a ratio holds for the whole matrix.

    `weight` (out, in), any float dtype; `gram` (in, in) only measures the error, None stands for the
    identity; `target` (out, in) are the weights to prune and reproduce in place of `weight`, which then only
    gives the dtype. Raises `TargetError` when groups of N:M do not divide the inputs.
    """
    check_fits(pattern, weight.shape[1])
    goal = weight if target is None else target
    mask = select_mask(goal.abs(), pattern)
    pruned = goal.to(weight.dtype).masked_fill(~mask, 0)
    return finish(pruned, mask, gram, target=goal)
