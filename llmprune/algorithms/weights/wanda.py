"""Wanda (Sun et al., ICLR 2024): magnitude times the norm of the input, ranked within each output row."""

from torch import Tensor

from llmprune.algorithms.processes import Rows
from llmprune.algorithms.weights.patterns import Pattern, check_fits, select_mask
from llmprune.algorithms.weights.pruned import PrunedWeight, measured, working_dtype


def prune_linear(
    weight: Tensor, gram: Tensor, pattern: Pattern, *, target: Tensor | None = None, rows: Rows | None = None
) -> PrunedWeight:
    """Zero the weights of smallest |W_ij| ||X_j|| (the paper's eq. 1); a ratio holds for every output row.

    Args:
        weight: (out, in), any float dtype; that of the result.
        gram: (in, in) = X X^T, float32 or float64, of which the choice only uses the diagonal ||X_j||^2.
        pattern: which zeros.
        target: (out, in), the weights to prune and reproduce in place of `weight`, which then only gives the dtype.
        rows: of the whole matrix, where weight, target and result are a process's own (own rows, in); errors, too.

    Raises:
        TargetError: groups of N:M do not divide the inputs.
        NumericalError: the error is not finite.
    """
    check_fits(pattern, weight.shape[1])
    target = weight if target is None else target
    dtype = working_dtype(target, gram)
    scores = target.to(dtype).abs() * gram.diagonal().to(dtype).sqrt()
    mask = select_mask(scores, pattern, scope="row", rows=rows)
    pruned = target.to(weight.dtype).masked_fill(~mask, 0)
    return measured(pruned, mask, gram, target=target)
