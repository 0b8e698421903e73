"""SparseGPT (Frantar & Alistarh, ICML 2023): prune a column, repair its error in the columns to its right.

With U^T U = H^-1, U upper triangular, removing weight w of column c costs (w / U_cc)^2 and is best repaired
by subtracting (w / U_cc) U_c,j from every later column j (their eq. 3 and algorithm 1). Inside, matrices are
(in, out), so that a column of the weight is contiguous.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from llmprune.algorithms.processes import Rows
from llmprune.algorithms.weights.factor import InverseFactor, factorise
from llmprune.algorithms.weights.patterns import (
    Pattern,
    SemiStructured,
    Unstructured,
    check_fits,
    keep_largest,
    zero_count,
)
from llmprune.algorithms.weights.pruned import PrunedWeight, measured, working_dtype
from llmprune.choices import BLOCK_SIZE, DAMPING


def prune_linear(
    weight: Tensor,
    gram: Tensor,
    pattern: Pattern,
    *,
    target: Tensor | None = None,
    damping: float = DAMPING,
    block_size: int = BLOCK_SIZE,
    factor: InverseFactor | None = None,
    rows: Rows | None = None,
    spent: bool = False,
) -> PrunedWeight:
    """Prune one linear layer so that it still reproduces its outputs on the inputs behind `gram`.

    An unstructured ratio is met to the weight: block by block of `block_size` columns, the rounding carried over;
    N:M holds with exactly n zeros in every group. Weights of dead inputs go before all others, the smallest first,
    but never beyond the pattern: those that it leaves room for stay as they are, since calibration says nothing
    about them. A ratio of 0 returns the target itself.

    Args:
        weight: (out, in), any float dtype; that of the result. Computed in float32, or float64 if it, `target` or
            `gram` is.
        gram: (in, in) = X X^T, float32 or float64.
        pattern: which zeros.
        target: (out, in), the weights to prune and reproduce in place of `weight`, which then only gives the dtype.
        damping: of `gram`, relative to its mean diagonal.
        block_size: columns whose mask is chosen at once, and whose errors are carried on together.
        factor: `factorise(gram, damping=damping)`, where the caller has it already.
        rows: of the whole matrix, where weight, target and result are a process's own (own rows, in); errors, too.
        spent: whether `factor` is not used again: it is given up before the error is measured.

    Raises:
        TargetError: groups of N:M do not divide the inputs.
        NumericalError: `gram` cannot be factorised, or the error is not finite.
    """
    check_fits(pattern, weight.shape[1])
    target = weight if target is None else target
    if pattern == Unstructured(0):
        mask = torch.ones_like(weight, dtype=torch.bool)
        return measured(target.to(weight.dtype).clone(), mask, gram, target=target)
    dtype = working_dtype(target, gram)
    if factor is None:
        factor = factorise(gram.to(dtype), damping=damping)
    columns = target.to(dtype).T.clone(memory_format=torch.contiguous_format)
    keep = _prune_columns(columns, factor, pattern, _whole_groups(block_size, pattern), rows or Rows(len(weight)))
    damping, widened = factor.damping, factor.widened
    if spent:
        factor.give_up()
    pruned = torch.empty_like(weight, memory_format=torch.contiguous_format).copy_(columns.T)
    del columns  # before what the error takes
    mask = keep.T.contiguous()
    del keep
    return measured(pruned, mask, gram, target=target, damping=damping, widened=widened)


def _whole_groups(block_size: int, pattern: Pattern) -> int:
    """`block_size` rounded up so that no group of N:M straddles two blocks."""
    return -(-block_size // pattern.m) * pattern.m if isinstance(pattern, SemiStructured) else block_size


def _prune_columns(columns: Tensor, factor: InverseFactor, pattern: Pattern, block_size: int, rows: Rows) -> Tensor:
    """Prune `columns` (in, own rows) in place; returns the keep mask (in, own rows)."""
    pivots = factor.upper.diagonal()
    keep = torch.empty_like(columns, dtype=torch.bool)
    zeros = 0
    for start in range(0, len(columns), block_size):
        here = slice(start, min(start + block_size, len(columns)))
        width = here.stop - start
        steps = factor.upper[here, start:] / pivots[here].unsqueeze(1)  # U_cj / U_cc: what a unit of c takes from j
        block = _Block(columns[here], steps[:, :width], pivots[here], factor.dead[here])
        match pattern:
            case Unstructured(ratio):
                budget = zero_count(ratio, here.stop * rows.count) - zeros
                scores = rows.join(block.scores(slice(None)).T)  # those of all rows compete
                keep[here] = keep_largest(scores.T, budget)[:, rows.here]
                zeros += budget
                dropped = _eliminate(block, keep[here])
            case SemiStructured():
                dropped = _eliminate(block, keep[here], pattern)
        # Their lazy batch update: one product carries the block's errors to all later columns.
        columns[here.stop :].addmm_(steps[:, width:].T, dropped, alpha=-1)
    return keep


@dataclass(frozen=True)
class _Block:
    """A block of consecutive columns: `columns` (b, out), a view that is worked on; `steps` (b, b)."""

    columns: Tensor
    steps: Tensor
    pivots: Tensor
    dead: Tensor

    def scores(self, here: slice) -> Tensor:
        """(w / U_cc)^2, and -1 / |w| for dead inputs: below any other score, and rising with the weight."""
        columns, dead = self.columns[here], self.dead[here].unsqueeze(1)
        scores = (columns / self.pivots[here].unsqueeze(1)).square_()
        return torch.where(dead, columns.abs().reciprocal_().neg_(), scores)


def _choose_group(block: _Block, group: slice, zeros: int) -> Tensor:
    """The keep mask (m, out) of a group of inputs: the `zeros` of smallest score go in each output."""
    order = block.scores(group).argsort(dim=0, stable=True)
    return torch.ones_like(order, dtype=torch.bool).scatter_(0, order[:zeros], False)


def _eliminate(block: _Block, keep: Tensor, groups: SemiStructured | None = None) -> Tensor:
    """Walk the block's columns, in place; returns what was dropped (b, out), zero where kept.

    `keep` (b, out) is read, or, with `groups`, filled in. The zeros of a group of N:M are chosen when the walk
    comes to it: by then its weights hold the repairs of all columns before it, those of earlier blocks by the
    lazy batch update, those of this block by the walk itself. So a group may not straddle two blocks.
    """
    drop = (~keep).to(block.columns.dtype) if groups is None else torch.empty_like(block.columns)
    dropped = torch.empty_like(block.columns)
    for c in range(len(block.columns)):
        if groups is not None and c % groups.m == 0:
            group = slice(c, c + groups.m)
            keep[group] = _choose_group(block, group, groups.n)
            drop[group] = ~keep[group]
        torch.mul(block.columns[c], drop[c], out=dropped[c])
        # steps[c, c] is 1, so the dropped weights themselves become exactly zero in the same call.
        block.columns[c:].addr_(block.steps[c, c:], dropped[c], alpha=-1)
    return dropped
