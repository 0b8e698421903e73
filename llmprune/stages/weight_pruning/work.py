"""What pruning computes, counted from shapes: on its way over the tokens, and to solve a block.

Names: H, F and I as the block's shapes have them.
"""

from __future__ import annotations

from llmprune.algorithms.weights.gram import gram_products
from llmprune.algorithms.weights.layer import LayerMethod
from llmprune.stages.common.work import Work
from llmprune.stages.weight_pruning.block_shapes import BlockShapes
from llmprune.stages.weight_pruning.settings import PruningSettings

_INVERSE = 1.0  # of n^3: a factor of an inverse takes as long as so many products
_CHOLESKY = 0.35  # the same of a factor to solve with
_SOLVED = 2.2  # of rows n^2: solving by such a factor, and what a target lacks
_MEASURED = 2.5  # the same of choosing a mask, and of its error and energy
_STEP = 12  # numbers of a weight, and calls, in a step of the refit
_COLUMN = 12  # calls for a column of SparseGPT
_HIDDEN = 12  # numbers of a hidden unit of a token in a pass
_ELEMENTWISE = 60  # the same in its elementwise problem


def token_work(shapes: BlockShapes, settings: PruningSettings, seq_len: int, *, joint: bool, dense: bool) -> Work:
    """Of one token in one block.

    Args:
        shapes: of the block.
        settings: how it is pruned.
        seq_len: tokens in a window.
        joint: whether its FFN is pruned as one problem.
        dense: whether the dense model's activations are to be reproduced.
    """
    forwards = shapes.forward(seq_len) * (2 if dense else 1)
    attention = _sums(shapes.width, dense) + _sums(shapes.heads, dense)
    if not joint:
        ffn = _sums(shapes.width, dense) + _sums(shapes.hidden, dense) if shapes.inner else 0
        return Work(narrow=forwards, rounded=attention + ffn)
    inner, down, gram = shapes.inner * shapes.width, shapes.hidden * shapes.width, gram_products(shapes.hidden)
    again = settings.rounds - 1
    first = gram_products(shapes.width) + (shapes.width**2 if dense else gram)
    of_round = inner + gram + down
    passes = inner + (down if dense else 0) + again * 2 * down + (0 if dense else inner + (again + 1) * down)
    return Work(
        narrow=forwards + passes,
        rounded=attention + first + gram + (2 if dense else 1) * down + again * of_round,
        numbers=shapes.hidden * (_HIDDEN * (1 + 2 * settings.rounds) + _ELEMENTWISE * again),
    )


def _sums(inputs: int, dense: bool) -> int:
    """Products over a token's inputs: with themselves, and with the dense model's."""
    return gram_products(inputs) + (inputs**2 if dense else 0)


def solve_work(shapes: BlockShapes, settings: PruningSettings, *, joint: bool, dense: bool) -> Work:
    """Of one block whatever the tokens: factors, targets, masks, refits.

    The factor behind the masks of an FFN's first matrices is made once, that of its last one and those of targets in
    every round.
    """
    total, rounds = Work(), settings.rounds + 1 if joint else 1
    for rows, columns in shapes.matrices:
        of_ffn = shapes.inner > 0 and shapes.hidden in (rows, columns)
        total += _matrix_work(rows, columns, settings, targeted=dense or joint).times(rounds if of_ffn else 1)
    inverse = _INVERSE if settings.layer.method is LayerMethod.SPARSEGPT else 0.0
    solve = _CHOLESKY if dense or joint else 0.0
    total += Work((inverse + solve) * (shapes.width**3 + shapes.heads**3))
    if shapes.inner:
        total += Work((inverse + rounds * solve) * shapes.width**3 + rounds * (inverse + solve) * shapes.hidden**3)
    return total


def _matrix_work(rows: int, columns: int, settings: PruningSettings, *, targeted: bool) -> Work:
    """Of one matrix, once its factors are there."""
    steps, size = settings.refit_steps, rows * columns
    total = Work((_MEASURED + (_SOLVED if targeted else 0.0)) * size * columns)
    if settings.layer.method is LayerMethod.SPARSEGPT:
        total += Work(numbers=settings.block_size * size, calls=_COLUMN * columns)
    if steps:
        total += Work((steps + 1) * size * columns, numbers=_STEP * steps * size, calls=_STEP * steps)
    return total
