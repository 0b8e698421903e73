"""Passes over the tokens of an FFN's pruning problem, of which sums remain: Gram matrices, moments, errors.

Each function reads every chunk of the store once, in order. Names as in `subproblems`: inputs X, outputs Y,
auxiliary pre-activations z and s, hidden activations p, whose rows are tokens. All sums are over tokens scaled as the
chunks say. What is solved for each token on its own is the same at any scale.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llmprune.algorithms.feed_forward.auxiliary import solve_auxiliary
from llmprune.algorithms.feed_forward.network import (
    ChunkStore,
    Ffn,
    FfnChunk,
    GatedFfn,
    Linear,
    hidden,
    pre_activations,
    widen,
    widened,
)
from llmprune.algorithms.feed_forward.subproblems import Coefficients, HiddenSolver
from llmprune.algorithms.weights.gram import CrossAccumulator, GramAccumulator


@dataclass(frozen=True)
class CrossMoments:
    """(z - b) X^T and (s - b) X^T, (hidden, in), for the biases b; `gate` is None for a plain FFN."""

    up: Tensor
    gate: Tensor | None


@dataclass(frozen=True)
class OutputError:
    """`error` = ||FFN(X) - Y||^2 and `energy` = ||Y||^2, summed over all tokens in float64."""

    error: float
    energy: float


@dataclass(frozen=True)
class HiddenMoments:
    """P P^T (hidden, hidden) and (Y - b) P^T (out, hidden), for the bias b of the down projection.

    `target_energy` = ||Y - b||^2 and `energy` = ||Y||^2.
    """

    gram: Tensor
    cross: Tensor
    target_energy: float
    energy: float

    def output_error(self, weight: Tensor) -> OutputError:
        """The true error of a down projection (out, hidden) on this P, without another pass over the tokens.

        ||W P + b - Y||^2 = tr(W P P^T W^T) - 2 tr(W P (Y - b)^T) + ||Y - b||^2.
        """
        wide = weight.to(self.gram.dtype)
        error = ((wide @ self.gram - 2 * self.cross) * wide).sum(dtype=torch.float64)
        return OutputError(max(0.0, float(error) + self.target_energy), self.energy)


@dataclass(frozen=True)
class AuxiliaryUpdate:
    """The moments of the new z, s and p, and the true error of the weights that they were solved for."""

    cross: CrossMoments
    hidden: HiddenMoments
    error: OutputError


def input_gram(chunks: ChunkStore) -> Tensor:
    """X X^T (in, in)."""
    gram = GramAccumulator()
    for chunk in widened(chunks):
        gram.update(chunk.scaled(chunk.inputs))
    return gram.result()


def cross_moments(ffn: Ffn, chunks: ChunkStore) -> CrossMoments:
    """The moments of z and s as the chunks hold them; of `ffn` only the biases are used."""
    cross = _CrossSums(ffn)
    for chunk in widened(chunks):
        cross.add(chunk)
    return cross.result()


def auxiliary_hidden_moments(ffn: Ffn, chunks: ChunkStore) -> HiddenMoments:
    """The moments of P = f(s) z, or f(z), of the z and s that the chunks hold."""
    moments = _HiddenSums(ffn)
    for chunk in widened(chunks):
        moments.add(chunk, hidden(ffn, chunk.up, chunk.gate))
    return moments.result()


def hidden_moments(ffn: Ffn, chunks: ChunkStore) -> HiddenMoments:
    """The moments of P = f(gate(x)) up(x), or f(up(x)): what the down projection of `ffn` is given."""
    moments = _HiddenSums(ffn)
    for chunk in widened(chunks):
        moments.add(chunk, hidden(ffn, *pre_activations(ffn, chunk.inputs)))
    return moments.result()


def hidden_moments_beside_dense(ffn: Ffn, dense: Ffn, chunks: ChunkStore) -> tuple[HiddenMoments, Tensor]:
    """As `hidden_moments`, and (out, hidden) the cross moments of P with what `dense` gives for the chunks' z and s.

    Without its bias: W_d p_dense P^T, what SparseGPT aims at after the pruned up and gate projections of `ffn`.
    """
    moments, cross = _HiddenSums(ffn), CrossAccumulator()
    down = Linear(dense.down.weight)
    for chunk in widened(chunks):
        p = hidden(ffn, *pre_activations(ffn, chunk.inputs))
        moments.add(chunk, p)
        outputs = down(hidden(dense, chunk.up, chunk.gate), product=chunk.inputs.dtype)
        cross.update(chunk.scaled(outputs), chunk.scaled(p))
    return moments.result(), cross.result()


def output_error(ffn: Ffn, chunks: ChunkStore) -> OutputError:
    """The true error of `ffn`."""
    error = _ErrorSums(ffn)
    for chunk in widened(chunks):
        error.add(chunk, *pre_activations(ffn, chunk.inputs))
    return error.result()


def update_auxiliary(
    ffn: Ffn, chunks: ChunkStore, solver: HiddenSolver, coefficients: Coefficients, *, steps: int
) -> CrossMoments:
    """Solve p, then z, then s for the weights of `ffn`; the chunks take the new z and s.

    Args:
        ffn: with the weights of this round.
        chunks: changed: each is replaced by one with the new z and s, in the dtype that it had.
        solver: `hidden_solver(ffn.down, coefficients)`.
        coefficients: the penalties.
        steps: Newton steps of an elementwise problem.

    Returns:
        The moments of the new z and s.
    """
    cross = _CrossSums(ffn)
    for place in range(len(chunks)):
        chunk = widen(stored := chunks[place])
        up, gate = pre_activations(ffn, chunk.inputs)
        chunk, _ = solve_auxiliary(ffn, chunk, up, gate, solver, coefficients, steps=steps)
        cross.add(chunk)
        chunks[place] = _with_auxiliary_of(chunk, stored)
    return cross.result()


def update_auxiliary_and_measure(
    ffn: Ffn, chunks: ChunkStore, solver: HiddenSolver, coefficients: Coefficients, *, steps: int
) -> AuxiliaryUpdate:
    """As `update_auxiliary`, and in the same pass the moments of the new p and the true error of `ffn`."""
    error, cross, moments = _ErrorSums(ffn), _CrossSums(ffn), _HiddenSums(ffn)
    for place in range(len(chunks)):
        chunk = widen(stored := chunks[place])
        up, gate = pre_activations(ffn, chunk.inputs)
        error.add(chunk, up, gate)
        chunk, p = solve_auxiliary(ffn, chunk, up, gate, solver, coefficients, steps=steps)
        cross.add(chunk)
        moments.add(chunk, p)
        chunks[place] = _with_auxiliary_of(chunk, stored)
    return AuxiliaryUpdate(cross.result(), moments.result(), error.result())


def _with_auxiliary_of(solved: FfnChunk, stored: FfnChunk) -> FfnChunk:
    """`stored` with the z and s of `solved`, in the dtype in which it keeps them."""
    dtype = stored.up.dtype
    return replace(stored, up=solved.up.to(dtype), gate=None if solved.gate is None else solved.gate.to(dtype))


class _CrossSums:
    def __init__(self, ffn: Ffn) -> None:
        self._ffn = ffn
        self._up = CrossAccumulator()
        self._gate = CrossAccumulator()

    def add(self, chunk: FfnChunk) -> None:
        inputs = chunk.scaled(chunk.inputs)
        self._up.update(chunk.scaled(self._ffn.up.without_bias(chunk.up)), inputs)
        if isinstance(self._ffn, GatedFfn) and chunk.gate is not None:
            self._gate.update(chunk.scaled(self._ffn.gate.without_bias(chunk.gate)), inputs)

    def result(self) -> CrossMoments:
        gate = self._gate.result() if isinstance(self._ffn, GatedFfn) else None
        return CrossMoments(self._up.result(), gate)


class _HiddenSums:
    def __init__(self, ffn: Ffn) -> None:
        self._down = ffn.down
        self._gram = GramAccumulator()
        self._cross = CrossAccumulator()
        self._target_energy = 0.0
        self._energy = 0.0

    def add(self, chunk: FfnChunk, p: Tensor) -> None:
        target, p = chunk.scaled(self._down.without_bias(chunk.outputs)), chunk.scaled(p)
        self._gram.update(p)
        self._cross.update(target, p)
        self._target_energy += float(target.square().sum(dtype=torch.float64))
        self._energy += float(chunk.scaled(chunk.outputs).square().sum(dtype=torch.float64))

    def result(self) -> HiddenMoments:
        return HiddenMoments(self._gram.result(), self._cross.result(), self._target_energy, self._energy)


class _ErrorSums:
    def __init__(self, ffn: Ffn) -> None:
        self._ffn = ffn
        self._error = 0.0
        self._energy = 0.0

    def add(self, chunk: FfnChunk, up: Tensor, gate: Tensor | None) -> None:
        """Add the tokens of `chunk`, for the pre-activations that the FFN gives on them."""
        outputs = self._ffn.down(hidden(self._ffn, up, gate), product=chunk.inputs.dtype)
        self._error += float(chunk.scaled(outputs - chunk.outputs).square().sum(dtype=torch.float64))
        self._energy += float(chunk.scaled(chunk.outputs).square().sum(dtype=torch.float64))

    def result(self) -> OutputError:
        return OutputError(self._error, self._energy)
