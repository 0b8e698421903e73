"""Passes over the tokens of an FFN's pruning problem, of which sums remain (`token_sums`).

Each function reads every chunk of the store once, in order, and lets go of what it made of one before it reads the
next, which a loop's names would keep. Names as in `subproblems`. What is solved for each token on its own is the same
at any scale.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from llmprune.algorithms.feed_forward.auxiliary import solve_auxiliary
from llmprune.algorithms.feed_forward.network import (
    ChunkStore,
    Ffn,
    FfnChunk,
    Linear,
    hidden,
    own_pre_activations,
    pre_activations,
    widen,
)
from llmprune.algorithms.feed_forward.subproblems import Coefficients, HiddenSolver
from llmprune.algorithms.feed_forward.token_sums import (
    CrossMoments,
    CrossSums,
    ErrorSums,
    FirstMoments,
    FirstSums,
    HiddenMoments,
    HiddenSums,
    OutputError,
)
from llmprune.algorithms.processes import ALONE, Processes
from llmprune.algorithms.weights.gram import CrossAccumulator
from llmprune.choices import Reference


@dataclass(frozen=True)
class AuxiliaryUpdate:
    """The moments of the new z, s and p, and the true error of the weights that they were solved for."""

    cross: CrossMoments
    hidden: HiddenMoments
    error: OutputError


def first_moments(ffn: Ffn, chunks: ChunkStore, reference: Reference, processes: Processes = ALONE) -> FirstMoments:
    """The same of chunks that are there already."""
    sums = FirstSums(ffn, reference)
    for place in range(len(chunks)):
        sums.add(chunks[place])
    return sums.take(processes)


def hidden_moments(ffn: Ffn, chunks: ChunkStore, *, keep: bool = False, processes: Processes = ALONE) -> HiddenMoments:
    """The moments of P = f(gate(x)) up(x), or f(up(x)): what the down projection of `ffn` is given.

    With `keep` the chunks take gate(x) and up(x), for an update of the same weights.
    """
    moments = HiddenSums(ffn)
    for chunk, p in _hidden_of_pruned(ffn, chunks, keep):
        moments.add(chunk, p)
        del chunk, p
    return moments.take(processes)


def hidden_moments_beside_dense(
    ffn: Ffn, dense: Ffn, chunks: ChunkStore, *, keep: bool = False, processes: Processes = ALONE
) -> tuple[HiddenMoments, Tensor]:
    """As `hidden_moments`, and the cross moments of P with what `dense` gives for the chunks' z and s.

    These are a process's rows of a matrix (out, hidden).

    Without its bias: W_d p_dense P^T, what SparseGPT aims at after the pruned up and gate projections of `ffn`.
    """
    moments, cross = HiddenSums(ffn), CrossAccumulator()
    down = Linear(dense.down.weight)
    for chunk, p in _hidden_of_pruned(ffn, chunks, keep):
        moments.add(chunk, p)
        outputs = down(hidden(dense, chunk.up, chunk.gate), product=chunk.inputs.dtype)
        cross.update(chunk.scaled(outputs), chunk.scaled(p))
        del chunk, p, outputs
    return moments.take(processes), cross.take_rows(processes)


def output_error(ffn: Ffn, chunks: ChunkStore, processes: Processes = ALONE) -> OutputError:
    """The true error of `ffn`."""
    error = ErrorSums(ffn)
    for place in range(len(chunks)):
        chunk = widen(chunks[place])
        error.add(chunk, *pre_activations(ffn, chunk.inputs))
        del chunk
    return error.result(processes)


def update_auxiliary(
    ffn: Ffn,
    chunks: ChunkStore,
    solver: HiddenSolver,
    coefficients: Coefficients,
    *,
    steps: int,
    processes: Processes = ALONE,
) -> CrossMoments:
    """Solve p, then z, then s for the weights of `ffn`; the chunks take the new z and s.

    Args:
        ffn: with the weights of this round.
        chunks: changed: each is replaced by one with the new z and s, in the dtype that it had.
        solver: `hidden_solver(ffn.down, coefficients)`.
        coefficients: the penalties.
        steps: Newton steps of an elementwise problem.
        processes: each of which has some of the chunks.

    Returns:
        The moments of the new z and s.
    """
    cross = CrossSums(ffn)
    for place in range(len(chunks)):
        chunk = widen(stored := chunks[place])
        up, gate = own_pre_activations(ffn, chunk, stored.up.dtype)
        chunk, p = solve_auxiliary(ffn, chunk, up, gate, solver, coefficients, steps=steps)
        cross.add(chunk)
        chunks[place] = _with_auxiliary_of(chunk, stored)
        del chunk, stored, up, gate, p
    return cross.take(processes)


def update_auxiliary_and_measure(
    ffn: Ffn,
    chunks: ChunkStore,
    solver: HiddenSolver,
    coefficients: Coefficients,
    *,
    steps: int,
    processes: Processes = ALONE,
) -> AuxiliaryUpdate:
    """As `update_auxiliary`, and in the same pass the moments of the new p and the true error of `ffn`."""
    error, cross, moments = ErrorSums(ffn), CrossSums(ffn), HiddenSums(ffn)
    for place in range(len(chunks)):
        chunk = widen(stored := chunks[place])
        up, gate = own_pre_activations(ffn, chunk, stored.up.dtype)
        error.add(chunk, up, gate)
        chunk, p = solve_auxiliary(ffn, chunk, up, gate, solver, coefficients, steps=steps)
        cross.add(chunk)
        moments.add(chunk, p)
        chunks[place] = _with_auxiliary_of(chunk, stored)
        del chunk, stored, up, gate, p
    return AuxiliaryUpdate(cross.take(processes), moments.take(processes), error.result(processes))


def _hidden_of_pruned(ffn: Ffn, chunks: ChunkStore, keep: bool) -> Iterator[tuple[FfnChunk, Tensor]]:
    """Every chunk, and p of the weights of `ffn` on its inputs."""
    for place in range(len(chunks)):
        chunk = widen(stored := chunks[place])
        up, gate = pre_activations(ffn, chunk.inputs)
        p = hidden(ffn, up, gate)
        if keep:
            dtype = stored.up.dtype
            chunks[place] = replace(stored, own_up=up.to(dtype), own_gate=None if gate is None else gate.to(dtype))
        del stored, up, gate
        yield chunk, p
        del chunk, p


def _with_auxiliary_of(solved: FfnChunk, stored: FfnChunk) -> FfnChunk:
    """`stored` with the z and s of `solved`, in the dtype in which it keeps them; those of pruned weights are used."""
    dtype = stored.up.dtype
    gate = None if solved.gate is None else solved.gate.to(dtype)
    return replace(stored, up=solved.up.to(dtype), gate=gate, own_up=None, own_gate=None)
