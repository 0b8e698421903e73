"""Wanda (Sun et al., ICLR 2024): magnitude times the norm of the input, ranked within each output row."""

from torch import Tensor

from llmprune.algorithms.weights.patterns import Pattern, check_fits, select_mask
from llmprune.algorithms.weights.pruned import PrunedWeight, finish, working_dtype


def prune_linear(weight: Tensor, gram: Tensor, pattern: Pattern, *, target: Tensor | None = None) -> PrunedWeight:
    """Zero the weights of smallest |W_ij| ||X_j|| (the paper's eq. 1); a ratio holds for every output row.

    `weight` (out, in), any float dtype; `gram` (in, in), of which the choice only uses the diagonal
    ||X_j||^2; `target` (out, in) are the weights to prune and reproduce in place of `weight`, which then only
    gives the dtype. Raises `TargetError` when groups of N:M do not divide the inputs.
    """
    check_fits(pattern, weight.shape[1])
    goal = weight if target is None else target
    dtype = working_dtype(goal, gram)
    scores = goal.to(dtype).abs() * gram.diagonal().to(dtype).sqrt()
    mask = select_mask(scores, pattern, scope="row")
    pruned = goal.to(weight.dtype).masked_fill(~mask, 0)
    return finish(pruned, mask, gram, target=goal)
