"""Slow, obvious versions of the solvers, to compare the fast ones with."""

from collections.abc import Callable

import torch
from torch import Tensor

from llmprune.algorithms.weights.patterns import Pattern, SemiStructured, Unstructured


def obs_sparsegpt(weight: Tensor, gram: Tensor, pattern: Pattern, *, damping: float, block_size: int) -> Tensor:
    """SparseGPT row by row, with the inverse of what remains of the Hessian formed anew at every column.

    The optimal brain surgeon: pruning weight q costs w_q^2 / [H^-1]_qq and moves the remaining weights by
    -w_q / [H^-1]_qq H^-1_q. Float64.
    """
    weight = weight.double().clone()
    rows, columns = weight.shape
    hessian = gram.double() + damping * gram.double().diagonal().mean() * torch.eye(columns).double()
    inverses = [torch.linalg.inv(hessian[c:, c:]) for c in range(columns)]
    pruned = torch.zeros(rows, columns, dtype=torch.bool)

    def cost(row: int, column: int) -> float:
        return float(weight[row, column] ** 2 / inverses[column][0, 0])

    for start in range(0, columns, block_size):
        block = range(start, min(start + block_size, columns))
        if isinstance(pattern, Unstructured):
            total = int(pattern.ratio * rows * block.stop + 0.5) - int(pruned.sum())
            order = sorted((cost(r, c), c, r) for r in range(rows) for c in block)
            for _, c, r in order[:total]:
                pruned[r, c] = True
        for c in block:
            if isinstance(pattern, SemiStructured) and c % pattern.m == 0:
                for r in range(rows):
                    order = sorted((cost(r, k), k, r) for k in range(c, c + pattern.m))
                    for _, k, _ in order[: pattern.n]:
                        pruned[r, k] = True
            for r in range(rows):
                if pruned[r, c]:
                    weight[r, c:] -= weight[r, c] / inverses[c][0, 0] * inverses[c][0]
                    weight[r, c] = 0
    return weight


def refit_exactly(mask: Tensor, gram: Tensor, target: Tensor) -> Tensor:
    """Least squares on the kept weights of every row, by the normal equations, in float64."""
    gram, target = gram.double(), target.double()
    weight = torch.zeros_like(target)
    for row, kept in enumerate(mask):
        weight[row, kept] = torch.linalg.solve(gram[kept][:, kept], gram[kept] @ target[row])
    return weight


def brute_minimum(objective: Callable[[Tensor], Tensor], low: float, high: float) -> float:
    """The smallest value of a function on [low, high]: a grid, then finer ones around the best."""
    for _ in range(4):
        grid = torch.linspace(low, high, 4001, dtype=torch.float64)
        values = objective(grid)
        best = int(values.argmin())
        low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, 4000)])
    return float(values.min())
