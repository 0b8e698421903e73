"""Passes over the tokens of an FFN's pruning problem, of which sums remain: Gram matrices and errors."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llmprune.algorithms.feed_forward.activation import Activation
from llmprune.algorithms.feed_forward.network import (
    ChunkStore,
    Ffn,
    FfnChunk,
    GatedFfn,
    hidden,
    pre_activations,
    widen,
    widened,
)
from llmprune.algorithms.feed_forward.subproblems import (
    Coefficients,
    HiddenSolver,
    solve_activated,
    solve_rectified,
    solve_up,
)
from llmprune.algorithms.weights.gram import CrossAccumulator, GramAccumulator

_SLAB = 64  # tokens of an elementwise problem at a time


@dataclass(frozen=True)
class InnerMoments:
    """What the up and gate weights are fitted to: (z - b) X^T and (s - b) X^T, (hidden, in)."""

    up: Tensor
    gate: Tensor | None


@dataclass(frozen=True)
class Fit:
    """`error` = ||FFN(X) - Y||^2 and `energy` = ||Y||^2, summed over all tokens in float64."""

    error: float
    energy: float


@dataclass(frozen=True)
class HiddenMoments:
    """What the down weights are fitted to: P P^T (hidden, hidden) and (Y - b) P^T (out, hidden).

    `owed` = ||Y - b||^2 and `energy` = ||Y||^2.
    """

    gram: Tensor
    cross: Tensor
    owed: float
    energy: float

    def fit(self, weight: Tensor) -> Fit:
        """The true error of down weights (out, hidden) on this P, without another pass over the tokens.

        ||W P + b - Y||^2 = tr(W P P^T W^T) - 2 tr(W P (Y - b)^T) + ||Y - b||^2.
        """
        wide = weight.to(self.gram.dtype)
        error = ((wide @ self.gram - 2 * self.cross) * wide).sum(dtype=torch.float64)
        return Fit(max(0.0, float(error) + self.owed), self.energy)


def input_gram(chunks: ChunkStore) -> Tensor:
    """X X^T (in, in)."""
    total = GramAccumulator()
    for chunk in widened(chunks):
        total.update(chunk.inputs)
    return total.result().matrix


def inner_moments(ffn: Ffn, chunks: ChunkStore) -> InnerMoments:
    """The moments of z and s as the chunks hold them; of `ffn` only the biases are used."""
    sums = _InnerSums(ffn)
    for chunk in widened(chunks):
        sums.add(chunk)
    return sums.result()


def hidden_moments(ffn: Ffn, chunks: ChunkStore, *, auxiliary: bool) -> HiddenMoments:
    """The moments of P = f(s) z or f(z), of the `auxiliary` z and s or of what `ffn` gives on X."""
    sums = _HiddenSums(ffn)
    for chunk in widened(chunks):
        up, gate = (chunk.up, chunk.gate) if auxiliary else pre_activations(ffn, chunk.inputs)
        sums.add(chunk, hidden(ffn, up, gate))
    return sums.result()


def fit(ffn: Ffn, chunks: ChunkStore) -> Fit:
    """The true error of `ffn`."""
    sums = _FitSums()
    for chunk in widened(chunks):
        given = hidden(ffn, *pre_activations(ffn, chunk.inputs))
        sums.add(chunk, ffn.down(given, product=chunk.inputs.dtype))
    return sums.result()


@dataclass(frozen=True)
class Advance:
    """What a pass of `advance` found: the moments of the new z, s and p, and the true error of its weights.

    `fit` and `hidden` are None where they were not asked for.
    """

    inner: InnerMoments
    fit: Fit | None
    hidden: HiddenMoments | None


def advance(
    ffn: Ffn,
    chunks: ChunkStore,
    solver: HiddenSolver,
    coefficients: Coefficients,
    *,
    steps: int,
    as_papers: bool,
) -> Advance:
    """Solve p, then z, then s for the weights of `ffn`; the chunks take the new z and s.

    `solver` is `hidden_solver(ffn.down, coefficients)`; `steps` are the Newton steps of an element. `as_papers`
    asks for the moments of p and for the true error of `ffn`, which costs one product more in the same pass:
    where down is fitted to what the pruned weights give, the moments of that tell the error already.
    """
    fits, inner, outer = _FitSums(), _InnerSums(ffn), _HiddenSums(ffn)
    for place in range(len(chunks)):
        stored = chunks[place]
        chunk = widen(stored)
        up, gate = pre_activations(ffn, chunk.inputs)
        if as_papers:
            fits.add(chunk, ffn.down(hidden(ffn, up, gate), product=chunk.inputs.dtype))
        chunk, p = solve_auxiliary(ffn, chunk, up, gate, solver, coefficients, steps=steps)
        inner.add(chunk)
        if as_papers:
            outer.add(chunk, p)
        chunks[place] = replace(
            stored,
            up=chunk.up.to(stored.up.dtype),
            gate=None if chunk.gate is None else chunk.gate.to(stored.up.dtype),
        )
    return Advance(inner.result(), fits.result() if as_papers else None, outer.result() if as_papers else None)


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
    """`chunk` with its new z and s, and the p between them, (tokens, hidden).

    `up` and `gate` (tokens, hidden) are m = up(x) and gate(x) of the pruned weights.
    """
    f = ffn.activation
    if chunk.gate is None or gate is None:
        p = solver(f.value(chunk.up), chunk.outputs, product=chunk.inputs.dtype)

        def plain(start: Tensor, centre: Tensor, p: Tensor) -> tuple[Tensor, ...]:
            return (_solve_through(f, start, centre, None, p, coefficients, steps),)

        (new_up,) = _in_slabs(plain, chunk.up, up, p)
        return replace(chunk, up=new_up), p

    gate_value = f.value(chunk.gate)
    p = solver(gate_value * chunk.up, chunk.outputs, product=chunk.inputs.dtype)

    def gated(gate_value: Tensor, start: Tensor, up: Tensor, gate: Tensor, p: Tensor) -> tuple[Tensor, ...]:
        new_up = solve_up(up, gate_value, p, coefficients)
        return new_up, _solve_through(f, start, gate, new_up, p, coefficients, steps)

    new_up, new_gate = _in_slabs(gated, gate_value, chunk.gate, up, gate, p)
    return replace(chunk, up=new_up, gate=new_gate), p


def _in_slabs(solve: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """`solve` on a few rows of the tensors at a time: its many intermediate results stay in the cache."""
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


class _InnerSums:
    def __init__(self, ffn: Ffn) -> None:
        self._ffn = ffn
        self._up = CrossAccumulator()
        self._gate = CrossAccumulator()

    def add(self, chunk: FfnChunk) -> None:
        self._up.update(self._ffn.up.without_bias(chunk.up), chunk.inputs)
        if isinstance(self._ffn, GatedFfn) and chunk.gate is not None:
            self._gate.update(self._ffn.gate.without_bias(chunk.gate), chunk.inputs)

    def result(self) -> InnerMoments:
        gate = self._gate.result().matrix if isinstance(self._ffn, GatedFfn) else None
        return InnerMoments(self._up.result().matrix, gate)


class _HiddenSums:
    def __init__(self, ffn: Ffn) -> None:
        self._down = ffn.down
        self._gram = GramAccumulator()
        self._cross = CrossAccumulator()
        self._owed = 0.0
        self._energy = 0.0

    def add(self, chunk: FfnChunk, p: Tensor) -> None:
        owed = self._down.without_bias(chunk.outputs)
        self._gram.update(p)
        self._cross.update(owed, p)
        self._owed += float(owed.square().sum(dtype=torch.float64))
        self._energy += float(chunk.outputs.square().sum(dtype=torch.float64))

    def result(self) -> HiddenMoments:
        return HiddenMoments(self._gram.result().matrix, self._cross.result().matrix, self._owed, self._energy)


class _FitSums:
    def __init__(self) -> None:
        self._error = 0.0
        self._energy = 0.0

    def add(self, chunk: FfnChunk, outputs: Tensor) -> None:
        self._error += float((outputs - chunk.outputs).square_().sum(dtype=torch.float64))
        self._energy += float(chunk.outputs.square().sum(dtype=torch.float64))

    def result(self) -> Fit:
        return Fit(self._error, self._energy)
