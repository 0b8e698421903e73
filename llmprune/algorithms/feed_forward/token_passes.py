"""Passes over the tokens of an FFN's pruning problem, of which sums remain: Gram matrices, moments, errors.

Each function reads every chunk of the store once, in order. Names as in `subproblems`: inputs X, outputs Y,
auxiliary pre-activations z and s, hidden activations p, whose rows are tokens. All sums are over tokens scaled as the
chunks say. What is solved for each token on its own is the same at any scale.
"""

from collections.abc import Iterator
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
    own_pre_activations,
    pre_activations,
    widen,
)
from llmprune.algorithms.feed_forward.subproblems import Coefficients, HiddenSolver
from llmprune.algorithms.processes import ALONE, Add, Processes
from llmprune.algorithms.weights.gram import CrossAccumulator, GramAccumulator
from llmprune.choices import Reference


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

    def output_error(self, weight: Tensor, processes: Processes = ALONE) -> OutputError:
        """The true error of a down projection (out, hidden) on this P, without another pass over the tokens.

        ||W P + b - Y||^2 = tr(W P P^T W^T) - 2 tr(W P (Y - b)^T) + ||Y - b||^2. Processes divide the rows of W.
        """
        own = processes.share(range(len(weight)))
        here = slice(own.start, own.stop)
        wide = weight[here].to(self.gram.dtype)
        part = ((wide @ self.gram - 2 * self.cross[here]) * wide).sum(dtype=torch.float64)
        error = sum(processes.agree(float(part)))
        return OutputError(max(0.0, error + self.target_energy), self.energy)


@dataclass(frozen=True)
class FirstMoments:
    """What is known of the tokens before any round.

    Attributes:
        gram: X X^T (in, in).
        cross: of the dense model's z and s; None where it is no reference.
        hidden: P P^T (hidden, hidden) of the dense FFN's p on X; None where the dense model is the reference.
    """

    gram: Tensor
    cross: CrossMoments | None
    hidden: Tensor | None


@dataclass(frozen=True)
class AuxiliaryUpdate:
    """The moments of the new z, s and p, and the true error of the weights that they were solved for."""

    cross: CrossMoments
    hidden: HiddenMoments
    error: OutputError


class FirstSums:
    """What is summed up of the chunks as they are made, at the dense activations: no pass over them for that.

    Args:
        ffn: the dense FFN, for its biases and its activation.
        reference: whose activations are to be reproduced.
    """

    def __init__(self, ffn: Ffn, reference: Reference) -> None:
        self._ffn = ffn
        self._gram = GramAccumulator()
        self._cross = _CrossSums(ffn) if reference is Reference.DENSE else None
        self._dense: CrossAccumulator | None = None
        self._hidden = GramAccumulator() if reference is Reference.PRUNED else None

    def add(self, chunk: FfnChunk, *, dense_inputs: Tensor | None = None) -> None:
        """Add a chunk as the store will give it.

        With the dense model's inputs (tokens, in), of which z and s were made, the moments of z and s are those of the
        inputs times the weights, (z - b) X^T = W (X_dense X^T): one product of narrow matrices in place of two of wide
        ones. Either all chunks come with them or none does.
        """
        chunk = widen(chunk)
        self._gram.update(chunk.scaled(chunk.inputs))
        if self._cross is not None and dense_inputs is not None:
            self._dense = (self._dense or CrossAccumulator()).update(
                chunk.scaled(dense_inputs), chunk.scaled(chunk.inputs)
            )
        elif self._cross is not None:
            self._cross.add(chunk)
        if self._hidden is not None:
            self._hidden.update(chunk.scaled(hidden(self._ffn, chunk.up, chunk.gate)))

    def take(self, add: Add | None = None) -> FirstMoments:
        """The sums, which are given away.

        Args:
            add: replaces a tensor by its sum over several processes, each of which has some of the chunks.
        """
        cross = None if self._cross is None or self._dense is not None else self._cross.take(add)
        if self._dense is not None:
            dense = self._dense.take(add)
            up = self._ffn.up.weight.to(dense.dtype) @ dense
            gate = self._ffn.gate.weight.to(dense.dtype) @ dense if isinstance(self._ffn, GatedFfn) else None
            cross = CrossMoments(up, gate)
        return FirstMoments(self._gram.take(add), cross, None if self._hidden is None else self._hidden.take(add))


def first_moments(ffn: Ffn, chunks: ChunkStore, reference: Reference, add: Add | None = None) -> FirstMoments:
    """The same of chunks that are there already."""
    sums = FirstSums(ffn, reference)
    for place in range(len(chunks)):
        sums.add(chunks[place])
    return sums.take(add)


def hidden_moments(ffn: Ffn, chunks: ChunkStore, *, keep: bool = False, add: Add | None = None) -> HiddenMoments:
    """The moments of P = f(gate(x)) up(x), or f(up(x)): what the down projection of `ffn` is given.

    With `keep` the chunks take gate(x) and up(x), for an update of the same weights.
    """
    moments = _HiddenSums(ffn)
    for chunk, p in _hidden_of_pruned(ffn, chunks, keep):
        moments.add(chunk, p)
    return moments.take(add)


def hidden_moments_beside_dense(
    ffn: Ffn, dense: Ffn, chunks: ChunkStore, *, keep: bool = False, add: Add | None = None
) -> tuple[HiddenMoments, Tensor]:
    """As `hidden_moments`, and (out, hidden) the cross moments of P with what `dense` gives for the chunks' z and s.

    Without its bias: W_d p_dense P^T, what SparseGPT aims at after the pruned up and gate projections of `ffn`.
    """
    moments, cross = _HiddenSums(ffn), CrossAccumulator()
    down = Linear(dense.down.weight)
    for chunk, p in _hidden_of_pruned(ffn, chunks, keep):
        moments.add(chunk, p)
        outputs = down(hidden(dense, chunk.up, chunk.gate), product=chunk.inputs.dtype)
        cross.update(chunk.scaled(outputs), chunk.scaled(p))
    return moments.take(add), cross.take(add)


def output_error(ffn: Ffn, chunks: ChunkStore, add: Add | None = None) -> OutputError:
    """The true error of `ffn`."""
    error = _ErrorSums(ffn)
    for place in range(len(chunks)):
        chunk = widen(chunks[place])
        error.add(chunk, *pre_activations(ffn, chunk.inputs))
    return error.result(add)


def update_auxiliary(
    ffn: Ffn,
    chunks: ChunkStore,
    solver: HiddenSolver,
    coefficients: Coefficients,
    *,
    steps: int,
    add: Add | None = None,
) -> CrossMoments:
    """Solve p, then z, then s for the weights of `ffn`; the chunks take the new z and s.

    Args:
        ffn: with the weights of this round.
        chunks: changed: each is replaced by one with the new z and s, in the dtype that it had.
        solver: `hidden_solver(ffn.down, coefficients)`.
        coefficients: the penalties.
        steps: Newton steps of an elementwise problem.
        add: replaces a tensor by its sum over several processes, each of which has some of the chunks.

    Returns:
        The moments of the new z and s.
    """
    cross = _CrossSums(ffn)
    for place in range(len(chunks)):
        chunk = widen(stored := chunks[place])
        up, gate = own_pre_activations(ffn, chunk)
        chunk, _ = solve_auxiliary(ffn, chunk, up, gate, solver, coefficients, steps=steps)
        cross.add(chunk)
        chunks[place] = _with_auxiliary_of(chunk, stored)
    return cross.take(add)


def update_auxiliary_and_measure(
    ffn: Ffn,
    chunks: ChunkStore,
    solver: HiddenSolver,
    coefficients: Coefficients,
    *,
    steps: int,
    add: Add | None = None,
) -> AuxiliaryUpdate:
    """As `update_auxiliary`, and in the same pass the moments of the new p and the true error of `ffn`."""
    error, cross, moments = _ErrorSums(ffn), _CrossSums(ffn), _HiddenSums(ffn)
    for place in range(len(chunks)):
        chunk = widen(stored := chunks[place])
        up, gate = own_pre_activations(ffn, chunk)
        error.add(chunk, up, gate)
        chunk, p = solve_auxiliary(ffn, chunk, up, gate, solver, coefficients, steps=steps)
        cross.add(chunk)
        moments.add(chunk, p)
        chunks[place] = _with_auxiliary_of(chunk, stored)
    return AuxiliaryUpdate(cross.take(add), moments.take(add), error.result(add))


def _hidden_of_pruned(ffn: Ffn, chunks: ChunkStore, keep: bool) -> Iterator[tuple[FfnChunk, Tensor]]:
    """Every chunk, and p of the weights of `ffn` on its inputs."""
    for place in range(len(chunks)):
        chunk = widen(stored := chunks[place])
        up, gate = pre_activations(ffn, chunk.inputs)
        yield chunk, hidden(ffn, up, gate)
        if keep:
            dtype = stored.up.dtype
            chunks[place] = replace(stored, own_up=up.to(dtype), own_gate=None if gate is None else gate.to(dtype))


def _with_auxiliary_of(solved: FfnChunk, stored: FfnChunk) -> FfnChunk:
    """`stored` with the z and s of `solved`, in the dtype in which it keeps them; those of pruned weights are used."""
    dtype = stored.up.dtype
    gate = None if solved.gate is None else solved.gate.to(dtype)
    return replace(stored, up=solved.up.to(dtype), gate=gate, own_up=None, own_gate=None)


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

    def take(self, add: Add | None) -> CrossMoments:
        gate = self._gate.take(add) if isinstance(self._ffn, GatedFfn) else None
        return CrossMoments(self._up.take(add), gate)


class _HiddenSums:
    def __init__(self, ffn: Ffn) -> None:
        self._down = ffn.down
        self._gram = GramAccumulator()
        self._cross = CrossAccumulator()
        self._target_energy = _Energy()
        self._energy = _Energy()

    def add(self, chunk: FfnChunk, p: Tensor) -> None:
        target, p = chunk.scaled(self._down.without_bias(chunk.outputs)), chunk.scaled(p)
        self._gram.update(p)
        self._cross.update(target, p)
        self._target_energy.add(target)
        self._energy.add(chunk.scaled(chunk.outputs))

    def take(self, add: Add | None) -> HiddenMoments:
        energies = (self._target_energy.total(add), self._energy.total(add))
        return HiddenMoments(self._gram.take(add), self._cross.take(add), *energies)


class _ErrorSums:
    def __init__(self, ffn: Ffn) -> None:
        self._ffn = ffn
        self._error = _Energy()
        self._energy = _Energy()

    def add(self, chunk: FfnChunk, up: Tensor, gate: Tensor | None) -> None:
        """Add the tokens of `chunk`, for the pre-activations that the FFN gives on them."""
        outputs = self._ffn.down(hidden(self._ffn, up, gate), product=chunk.inputs.dtype)
        self._error.add(chunk.scaled(outputs - chunk.outputs))
        self._energy.add(chunk.scaled(chunk.outputs))

    def result(self, add: Add | None) -> OutputError:
        return OutputError(self._error.total(add), self._energy.total(add))


class _Energy:
    """A sum of squares in float64, which stays on its device until it is asked for."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        if self._sum is None:
            self._sum = torch.zeros((), dtype=torch.float64, device=rows.device)
        self._sum.add_(rows.square().sum(dtype=torch.float64))

    def total(self, add: Add | None) -> float:
        if self._sum is None:
            return 0.0
        return float(self._sum if add is None else add(self._sum))
