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

# Tokens of an elementwise problem at a time. A Newton step makes several tensors as large as its input, which stay
# in the processor's cache for so few tokens: 4,096 tokens of a gated FFN of SmolLM2's width (1,536) took 0.7 to
# 0.9 s in slabs of 64 tokens, and 1.5 to 1.6 s all at once (one core of an Intel Xeon). From 16 to 128 it is alike.
_SLAB = 64


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

        (new_up,) = _in_slabs(plain, chunk.up, up, p)
        return replace(chunk, up=new_up), p

    gate_value = f.value(chunk.gate)
    p = solver(gate_value * chunk.up, chunk.outputs, product=chunk.inputs.dtype)  # (4)

    def gated(gate_value: Tensor, start: Tensor, up: Tensor, gate: Tensor, p: Tensor) -> tuple[Tensor, ...]:
        new_up = solve_up(up, gate_value, p, coefficients)  # (5)
        return new_up, _solve_through(f, start, gate, new_up, p, coefficients, steps)  # (6)

    new_up, new_gate = _in_slabs(gated, gate_value, chunk.gate, up, gate, p)
    return replace(chunk, up=new_up, gate=new_gate), p


def _in_slabs(solve: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """`solve` on a few rows of the tensors at a time: see `_SLAB`."""
    slabs = zip(*(torch.split(tensor, _SLAB) for tensor in tensors), strict=True)
    pieces = [solve(*slab) for slab in slabs]
    return tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))


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
