"""SparseLLM (Bai et al., NeurIPS 2024, arXiv 2402.17946): prune a feed-forward network as one problem.

Alternating minimisation of the penalty function that `subproblems` states: a round prunes the weights towards
their least-squares targets (equation 3 there), then solves the auxiliary variables p (4), z and s (5, 6), of
which the next round's targets are made. There are two protocols, by the `Reference`:

`rounds_of_the_papers`: X are the pruned model's inputs, Y what the dense FFN gives on them. Round 1 prunes the
dense weights, the down projection on the dense FFN's p. Later rounds take the p of equation 4.

`rounds_towards_dense_model` (a departure from the paper): X are the pruned model's inputs, but z, s and Y are
the dense model's own. From round 1 on there are targets, and the down projection is solved and pruned on what
the pruned up and gate projections really give, not on p.

Round 0 is SparseGPT: up and gate of round 1, and the down projection as SparseGPT prunes it after them, on what
they give. The alternation does not start there, and it can end worse: without round 0 it did in 27 of 180 random
FFNs by the papers' protocol, and in 2 of 180 towards a dense model (50, 70 and 90% zeros). So every round's true
error ||FFN_pruned(X) - Y||^2 is measured, and the best round is kept.

A departure in both: the least-squares targets are regularised towards the dense weights, where the paper takes
a pseudo-inverse.

Tokens stream through in chunks, and sums remain of them, so that memory does not grow with their number, but for the
chunks' store, which may lie on a disk. Half of the time is such passes: none is made that another could carry along.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TypeVar

from torch import Tensor

from llmprune.algorithms.feed_forward.network import ChunkStore, Ffn, GatedFfn, Linear
from llmprune.algorithms.feed_forward.subproblems import Coefficients, hidden_solver
from llmprune.algorithms.feed_forward.token_passes import (
    first_moments,
    hidden_moments,
    hidden_moments_beside_dense,
    output_error,
    update_auxiliary,
    update_auxiliary_and_measure,
)
from llmprune.algorithms.feed_forward.token_sums import CrossMoments, FirstMoments, HiddenMoments, OutputError
from llmprune.algorithms.processes import ALONE, Processes
from llmprune.algorithms.weights.layer import LayerSettings
from llmprune.algorithms.weights.pruned import PrunedWeight
from llmprune.algorithms.weights.shared_inputs import LayerTask, SharedInputs
from llmprune.choices import ROUNDS, Reference
from llmprune.errors import TargetError

T = TypeVar("T")
# The ridge of least-squares targets towards the dense weights, relative to the mean diagonal. The dense model's
# activations make the weights undo the errors of all earlier blocks, which overfits the calibration tokens: on held-out
# tokens 0.3 to 1 measured best, and 0.01 where the inputs are the FFN's own.
_RIDGE = {Reference.PRUNED: 0.01, Reference.DENSE: 0.3}


@dataclass(frozen=True)
class FfnSettings:
    """How an FFN is pruned.

    Attributes:
        layer: how each of its matrices is pruned.
        coefficients: the penalties alpha, beta, gamma.
        reference: whose activations are to be reproduced.
        rounds: most rounds of the alternation, beside round 0; at least 1.
        patience: stop after so many rounds that did not improve the alternation. Not 1: the first solution of
            p, z and s often costs some error that the next ones win back.
        ridge: of the least-squares targets, relative to the mean diagonal of the inputs' Gram matrix; None:
            0.3 for the dense model's activations, 0.01 for the pruned model's.
        steps: Newton steps of an elementwise problem.
        products: entered around every pass over the tokens: there the caller may lower the precision of
            float32 matrix products. The solves between the passes keep it.
        processes: that divide the work: each has some of the tokens, and all get the same weights.

    Raises:
        TargetError: no round at all.
    """

    layer: LayerSettings
    coefficients: Coefficients = field(default_factory=Coefficients)
    reference: Reference = Reference.PRUNED
    rounds: int = ROUNDS
    patience: int = 2
    ridge: float | None = None
    steps: int = 2
    products: Callable[[], AbstractContextManager[object]] = nullcontext
    processes: Processes = ALONE

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise TargetError(f"The number of rounds must be at least 1, and {self.rounds} is not.")

    @property
    def relative_ridge(self) -> float:
        """The ridge that is used."""
        return _RIDGE[self.reference] if self.ridge is None else self.ridge


@dataclass(frozen=True)
class FfnRound:
    """The pruned weights of one round; `gate` is None for a plain FFN. Round 0 is SparseGPT's.

    `error` = ||FFN_pruned(X) - Y||^2 and `energy` = ||Y||^2, summed over all tokens.
    """

    index: int
    up: PrunedWeight
    gate: PrunedWeight | None
    down: PrunedWeight
    error: float
    energy: float


@dataclass(frozen=True)
class FfnResult:
    """The round with the smallest true error, and the true error of every round that ran."""

    best: FfnRound
    errors: tuple[float, ...]

    @property
    def relative_errors(self) -> tuple[float, ...]:
        """`errors` as shares of ||Y||^2."""
        energy = self.best.energy or 1.0
        return tuple(error / energy for error in self.errors)


def prune_ffn(ffn: Ffn, chunks: ChunkStore, settings: FfnSettings, *, first: FirstMoments | None = None) -> FfnResult:
    """Run the rounds of the reference's protocol, and keep the best: never one that is worse than SparseGPT's.

    Args:
        ffn: the dense FFN; weights (out, in), of any float dtype, which the pruned ones keep.
        chunks: its tokens, at the dense activations (`first_chunk`). They are used up: z and s move on.
        settings: how it is pruned.
        first: what was summed up while the chunks were made (`FirstSums`); None: one more pass over them.

    Raises:
        NumericalError: a factorisation fails, or the activations are not finite.
        TargetError: groups of N:M do not divide a layer's inputs.
    """
    protocol = rounds_of_the_papers if settings.reference is Reference.PRUNED else rounds_towards_dense_model
    rounds = protocol(ffn, chunks, settings, first)
    del first  # the rounds give up what they have used
    best = next(rounds)  # of all rounds, SparseGPT's among them
    errors, lowest = [best.error], 1  # the round of the alternation with the lowest
    for current in rounds:
        errors.append(current.error)
        if current.error < best.error:
            best = current
        if current.index == 1 or current.error < errors[lowest]:
            lowest = current.index
        elif current.index - lowest >= settings.patience:
            break
        del current  # the next one takes as much memory
    return FfnResult(best=best, errors=tuple(errors))


def rounds_of_the_papers(
    ffn: Ffn, chunks: ChunkStore, settings: FfnSettings, first: FirstMoments | None = None
) -> Iterator[FfnRound]:
    """The papers' protocol: round 0 and `settings.rounds` more, of which each but the last moves z and s on.

    Passes over the tokens: one for every round, beside that for `first`. That of round 0 (two products with the
    tokens, P P^T, Y P^T) is what comparing with SparseGPT costs; that of round 1 has its products with the tokens.
    """
    first = first or _first_moments(ffn, chunks, settings, Reference.PRUNED)
    assert first.hidden is not None, "moments of the other reference"
    inputs = _inputs(first.gram, settings, again=True)
    up, gate = _prune_up_and_gate(ffn, None, inputs)
    weights = _Weights(up, gate, _prune_down(ffn, None, first.hidden, settings))  # of round 1: its moments can go
    del first
    moments = _hidden_moments(ffn, up, gate, chunks, settings, keep=settings.rounds > 1)
    sparsegpt = _Weights(up, gate, _prune_down(ffn, None, moments.gram, settings))
    yield sparsegpt.as_round(0, moments.output_error(sparsegpt.down.weight, settings.processes))
    del moments, sparsegpt, up, gate
    for index in range(1, settings.rounds):
        step = _step(update_auxiliary_and_measure, weights.in_place_of(ffn), chunks, settings)
        yield weights.as_round(index, step.error)
        del weights
        up, gate = _prune_up_and_gate(ffn, step.cross, inputs)  # (3) towards z X^T, s X^T
        moments = step.hidden
        del step
        weights = _Weights(up, gate, _prune_down(ffn, moments.cross, moments.gram, settings))  # (3) towards Y P^T
        del moments, up, gate
    with settings.products():
        error = output_error(weights.in_place_of(ffn), chunks, settings.processes)
    yield weights.as_round(settings.rounds, error)


def rounds_towards_dense_model(
    ffn: Ffn, chunks: ChunkStore, settings: FfnSettings, first: FirstMoments | None = None
) -> Iterator[FfnRound]:
    """The dense model as reference: round 0 and `settings.rounds` more; each but the last moves z and s on.

    Passes over the tokens, beside that for `first`: two for every round but 0, which has none of its own, and the
    last, which has one. The moments of P tell the true error of any down projection: no pass for that.
    """
    first = first or _first_moments(ffn, chunks, settings, Reference.DENSE)
    assert first.cross is not None, "moments of the other reference"
    inputs = _inputs(first.gram, settings, again=True)
    up, gate = _prune_up_and_gate(ffn, first.cross, inputs)  # (3)
    del first
    with settings.products():  # P = f(s) z of the pruned up and gate, and what the dense FFN gives beside it
        keep = settings.rounds > 1
        moments, dense_cross = hidden_moments_beside_dense(
            _with_up_and_gate(ffn, up, gate), ffn, chunks, keep=keep, processes=settings.processes
        )
    sparsegpt = _Weights(up, gate, _prune_down(ffn, dense_cross, moments.gram, settings))
    yield sparsegpt.as_round(0, moments.output_error(sparsegpt.down.weight, settings.processes))
    del sparsegpt, dense_cross
    weights, error = _with_down(ffn, up, gate, moments, settings)
    del moments, up, gate
    for index in range(1, settings.rounds):
        cross = _step(update_auxiliary, weights.in_place_of(ffn), chunks, settings)
        yield weights.as_round(index, error)
        del weights
        up, gate = _prune_up_and_gate(ffn, cross, inputs)  # (3) towards z X^T, s X^T
        del cross
        moments = _hidden_moments(ffn, up, gate, chunks, settings, keep=index + 1 < settings.rounds)
        weights, error = _with_down(ffn, up, gate, moments, settings)
        del moments, up, gate
    yield weights.as_round(settings.rounds, error)


def _first_moments(ffn: Ffn, chunks: ChunkStore, settings: FfnSettings, reference: Reference) -> FirstMoments:
    with settings.products():
        return first_moments(ffn, chunks, reference, settings.processes)


def _hidden_moments(
    ffn: Ffn, up: PrunedWeight, gate: PrunedWeight | None, chunks: ChunkStore, settings: FfnSettings, *, keep: bool
) -> HiddenMoments:
    """P of the pruned up and gate projections."""
    with settings.products():
        return hidden_moments(_with_up_and_gate(ffn, up, gate), chunks, keep=keep, processes=settings.processes)


def _step(update: Callable[..., T], pruned: Ffn, chunks: ChunkStore, settings: FfnSettings) -> T:
    """(4), (5), (6) for the weights of a round, by one pass over the tokens."""
    solver = hidden_solver(pruned.down, settings.coefficients, settings.processes)
    with settings.products():
        return update(pruned, chunks, solver, settings.coefficients, steps=settings.steps, processes=settings.processes)


@dataclass(frozen=True)
class _Weights:
    """An FFN's pruned weights; `gate` is None for a plain FFN."""

    up: PrunedWeight
    gate: PrunedWeight | None
    down: PrunedWeight

    def in_place_of(self, ffn: Ffn) -> Ffn:
        """`ffn` with these weights; its biases stay."""
        return replace(_with_up_and_gate(ffn, self.up, self.gate), down=Linear(self.down.weight, ffn.down.bias))

    def as_round(self, index: int, error: OutputError) -> FfnRound:
        return FfnRound(index, self.up, self.gate, self.down, error=error.error, energy=error.energy)


def _inputs(gram: Tensor, settings: FfnSettings, *, again: bool = False) -> SharedInputs:
    ridge, processes = settings.relative_ridge, settings.processes
    return SharedInputs(gram, settings.layer, ridge=ridge, processes=processes, again=again)


def _prune_up_and_gate(
    ffn: Ffn, cross: CrossMoments | None, inputs: SharedInputs
) -> tuple[PrunedWeight, PrunedWeight | None]:
    """(3): prune both towards the least-squares targets of their moments; as they are where there are none."""
    tasks = [_task(ffn.up.weight, None if cross is None else cross.up)]
    if isinstance(ffn, GatedFfn):
        tasks.append(_task(ffn.gate.weight, None if cross is None else cross.gate))
    up, *gate = inputs.prune(tasks)
    return up, gate[0] if gate else None


def _prune_down(ffn: Ffn, cross: Tensor | None, gram: Tensor, settings: FfnSettings) -> PrunedWeight:
    (down,) = _inputs(gram, settings).prune([_task(ffn.down.weight, cross)])
    return down


def _with_down(
    ffn: Ffn, up: PrunedWeight, gate: PrunedWeight | None, moments: HiddenMoments, settings: FfnSettings
) -> tuple[_Weights, OutputError]:
    """(3) towards Y P^T beside pruned up and gate projections, and the true error, which the moments tell."""
    weights = _Weights(up, gate, _prune_down(ffn, moments.cross, moments.gram, settings))
    return weights, moments.output_error(weights.down.weight, settings.processes)


def _task(weight: Tensor, cross: Tensor | None) -> LayerTask:
    return LayerTask(weight, None if cross is None else lambda _: cross)


def _with_up_and_gate(ffn: Ffn, up: PrunedWeight, gate: PrunedWeight | None) -> Ffn:
    new_up = Linear(up.weight, ffn.up.bias)
    if isinstance(ffn, GatedFfn):
        assert gate is not None, "a gated FFN has a gate"
        return replace(ffn, up=new_up, gate=Linear(gate.weight, ffn.gate.bias))
    return replace(ffn, up=new_up)
