"""Sums over the tokens of an FFN's pruning problem, filled chunk by chunk: Gram matrices, moments, errors.

Names as in `subproblems`: inputs X, outputs Y, auxiliary pre-activations z and s, hidden activations p, whose rows are
tokens. All sums are over tokens scaled as the chunks say.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from llmprune.algorithms.feed_forward.network import (
    Ffn,
    FfnChunk,
    GatedFfn,
    hidden,
    widen,
)
from llmprune.algorithms.processes import ALONE, Processes, Rows
from llmprune.algorithms.weights.gram import CrossAccumulator, GramAccumulator
from llmprune.algorithms.weights.slabs import slabs
from llmprune.choices import Reference


@dataclass(frozen=True)
class CrossMoments:
    """This process's rows of (z - b) X^T and (s - b) X^T, (hidden, in), for the biases b; a plain FFN has no `gate`."""

    up: Tensor
    gate: Tensor | None


@dataclass(frozen=True)
class OutputError:
    """`error` = ||FFN(X) - Y||^2 and `energy` = ||Y||^2, summed over all tokens in float64."""

    error: float
    energy: float


@dataclass(frozen=True)
class HiddenMoments:
    """P P^T (hidden, hidden) and this process's rows of (Y - b) P^T (out, hidden), for the down projection's bias b.

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
        own = weight[Rows(len(weight), processes).here]
        part = 0.0
        for rows in slabs(own):
            wide = own[rows].to(self.gram.dtype)
            part += float((torch.addmm(self.cross[rows], wide, self.gram, beta=-2).mul_(wide)).sum(dtype=torch.float64))
        error = sum(processes.agree(part))
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


class FirstSums:
    """What is summed up of the chunks as they are made, at the dense activations: no pass over them for that.

    Args:
        ffn: the dense FFN, for its biases and its activation.
        reference: whose activations are to be reproduced.
    """

    def __init__(self, ffn: Ffn, reference: Reference) -> None:
        self._ffn = ffn
        self._gram = GramAccumulator()
        self._cross = CrossSums(ffn) if reference is Reference.DENSE else None
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

    def take(self, processes: Processes = ALONE) -> FirstMoments:
        """The sums over all processes, each of which has some of the chunks; they are given away."""
        cross = None if self._cross is None or self._dense is not None else self._cross.take(processes)
        if self._dense is not None:
            dense = self._dense.take(processes)
            here = Rows(len(self._ffn.up.weight), processes).here
            up = self._ffn.up.weight[here].to(dense.dtype) @ dense
            gate = self._ffn.gate.weight[here].to(dense.dtype) @ dense if isinstance(self._ffn, GatedFfn) else None
            cross = CrossMoments(up, gate)
        hidden = None if self._hidden is None else self._hidden.take(processes)
        return FirstMoments(self._gram.take(processes), cross, hidden)


class CrossSums:
    """Adds up `CrossMoments`."""

    def __init__(self, ffn: Ffn) -> None:
        self._ffn = ffn
        self._up = CrossAccumulator()
        self._gate = CrossAccumulator()

    def add(self, chunk: FfnChunk) -> None:
        """Add the tokens of `chunk`, with the z and s that it has."""
        inputs = chunk.scaled(chunk.inputs)
        self._up.update(chunk.scaled(self._ffn.up.without_bias(chunk.up)), inputs)
        if isinstance(self._ffn, GatedFfn) and chunk.gate is not None:
            self._gate.update(chunk.scaled(self._ffn.gate.without_bias(chunk.gate)), inputs)

    def take(self, processes: Processes) -> CrossMoments:
        """The sums over all processes, each of which has some of the tokens; they are given away."""
        gate = self._gate.take_rows(processes) if isinstance(self._ffn, GatedFfn) else None
        return CrossMoments(self._up.take_rows(processes), gate)


class HiddenSums:
    """Adds up `HiddenMoments`."""

    def __init__(self, ffn: Ffn) -> None:
        self._down = ffn.down
        self._gram = GramAccumulator()
        self._cross = CrossAccumulator()
        self._target_energy = _Energy()
        self._energy = _Energy()

    def add(self, chunk: FfnChunk, p: Tensor) -> None:
        """Add the tokens of `chunk`, for their hidden activations `p` (tokens, hidden)."""
        target, p = chunk.scaled(self._down.without_bias(chunk.outputs)), chunk.scaled(p)
        self._gram.update(p)
        self._cross.update(target, p)
        self._target_energy.add(target)
        self._energy.add(chunk.scaled(chunk.outputs))

    def take(self, processes: Processes) -> HiddenMoments:
        """The sums over all processes, each of which has some of the tokens; they are given away."""
        energies = (self._target_energy.total(processes), self._energy.total(processes))
        return HiddenMoments(self._gram.take(processes), self._cross.take_rows(processes), *energies)


class ErrorSums:
    """Adds up `OutputError`."""

    def __init__(self, ffn: Ffn) -> None:
        self._ffn = ffn
        self._error = _Energy()
        self._energy = _Energy()

    def add(self, chunk: FfnChunk, up: Tensor, gate: Tensor | None) -> None:
        """Add the tokens of `chunk`, for the pre-activations that the FFN gives on them."""
        outputs = self._ffn.down(hidden(self._ffn, up, gate), product=chunk.inputs.dtype)
        self._error.add(chunk.scaled(outputs - chunk.outputs))
        self._energy.add(chunk.scaled(chunk.outputs))

    def result(self, processes: Processes) -> OutputError:
        """The error over all processes, each of which has some of the tokens."""
        return OutputError(self._error.total(processes), self._energy.total(processes))


class _Energy:
    """A sum of squares in float64, which stays on its device until it is asked for."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        if self._sum is None:
            self._sum = torch.zeros((), dtype=torch.float64, device=rows.device)
        self._sum.add_(rows.square().sum(dtype=torch.float64))

    def total(self, processes: Processes) -> float:
        return 0.0 if self._sum is None else float(processes.sum(self._sum))
