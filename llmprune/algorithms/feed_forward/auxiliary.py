"""The auxiliary variables of some tokens, solved one after another: p, then z, then s (equations 4, 5, 6)."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from llmprune.algorithms.feed_forward.activation import Activation
from llmprune.algorithms.feed_forward.network import Ffn, FfnChunk
from llmprune.algorithms.feed_forward.subproblems import (
    Coefficients,
    HiddenSolver,
    solve_activated,
    solve_rectified,
    solve_up,
)

# Numbers of an elementwise problem at a time on the CPU. A Newton step makes several tensors as large as its input,
# which stay in the processor's cache for so few. Other devices take a chunk at once.
_SLAB = 49_152


def solve_auxiliary(
    ffn: Ffn,
    chunk: FfnChunk,
    up: Tensor,
    gate: Tensor | None,
    solver: HiddenSolver,
    coefficients: Coefficients,
    *,
    steps: int,
) -> tuple[FfnChunk, Tensor]:
    """Equations 4, 5 and 6 for one chunk: returns it with its new z and s, and p (tokens, hidden) between them.

    `up` and `gate` (tokens, hidden) are m = up(x) and gate(x) of the pruned weights. p is solved for the z and
    s that the chunk holds.
    """
    f = ffn.activation
    if chunk.gate is None or gate is None:
        p = solver(f.value(chunk.up), chunk.outputs, product=chunk.inputs.dtype)  # (4)

        def plain(start: Tensor, centre: Tensor, p: Tensor) -> tuple[Tensor, ...]:
            return (_solve_through(f, start, centre, None, p, coefficients, steps),)  # (6)

        (new_up,) = _in_slabs(plain, 1, chunk.up, up, p)
        return replace(chunk, up=new_up), p

    gate_value = f.value(chunk.gate)
    p = solver(gate_value * chunk.up, chunk.outputs, product=chunk.inputs.dtype)  # (4)

    def gated(gate_value: Tensor, start: Tensor, up: Tensor, gate: Tensor, p: Tensor) -> tuple[Tensor, ...]:
        new_up = solve_up(up, gate_value, p, coefficients)  # (5)
        return new_up, _solve_through(f, start, gate, new_up, p, coefficients, steps)  # (6)

    new_up, new_gate = _in_slabs(gated, 2, gate_value, chunk.gate, up, gate, p)
    return replace(chunk, up=new_up, gate=new_gate), p


def _in_slabs(solve: Callable[..., tuple[Tensor, ...]], results: int, *tensors: Tensor) -> tuple[Tensor, ...]:
    """`solve`, which gives so many results, on a few rows of the tensors at a time: see `_SLAB`."""
    first = tensors[0]
    if first.device.type != "cpu":
        return solve(*tensors)
    solved = tuple(torch.empty_like(first) for _ in range(results))
    rows = max(1, _SLAB // first.shape[1])
    for start in range(0, len(first), rows):
        slab = slice(start, start + rows)
        for result, part in zip(solved, solve(*(tensor[slab] for tensor in tensors)), strict=True):
            result[slab] = part
    return solved


def _solve_through(
    activation: Activation,
    start: Tensor,
    centre: Tensor,
    scale: Tensor | None,
    p: Tensor,
    coefficients: Coefficients,
    steps: int,
) -> Tensor:
    if activation.rectifier:
        return solve_rectified(centre, scale, p, coefficients)
    return solve_activated(start, centre, scale, p, activation, coefficients, steps=steps)
