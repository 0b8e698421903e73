"""SparseLLM (Bai et al., NeurIPS 2024): prune a feed-forward network as one problem.

Alternating minimisation. A round prunes the weights towards their least-squares targets, measures the true
error ||FFN_pruned(X) - Y||^2, and solves p, z and s for the next round (`subproblems`). Round 0 prunes
towards the dense weights, or their dense targets: it is SparseGPT's result, and the best round is never
worse.

Tokens stream through in chunks; what stays of a sweep over them are Gram matrices, so that memory does not
depend on the number of tokens beyond the chunks' own store, which may live on disk.

Departures from the paper. The least-squares targets of the weights are regularised towards the dense weights,
where the paper takes a pseudo-inverse. With `Targets.DENSE` z, s and Y come from the dense model, and the
down projection is solved and pruned on what the pruned gate and up projections give, where the paper takes p.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from enum import Enum

from torch import Tensor

from llmprune.algorithms.feed_forward.network import ChunkStore, Ffn, GatedFfn, Linear
from llmprune.algorithms.feed_forward.subproblems import Coefficients, hidden_solver
from llmprune.algorithms.feed_forward.token_passes import (
    Advance,
    HiddenMoments,
    InnerMoments,
    advance,
    fit,
    hidden_moments,
    inner_moments,
    input_gram,
)
from llmprune.algorithms.weights.factor import InverseFactor, factorise
from llmprune.algorithms.weights.layer import LayerSettings, prune_layer
from llmprune.algorithms.weights.least_squares import ridge_towards
from llmprune.algorithms.weights.pruned import PrunedWeight
from llmprune.choices import ROUNDS
from llmprune.errors import TargetError


class Targets(Enum):
    """Whose activations the FFN is to reproduce."""

    PRUNED = "pruned"  # the dense FFN's on the pruned model's inputs: the paper's protocol
    DENSE = "dense"  # the dense model's own

    @property
    def ridge(self) -> float:
        """How strongly least-squares targets are held to the dense weights, relative to the mean diagonal.

        Dense targets make the weights undo the errors of all earlier blocks, which overfits the calibration
        tokens: on held-out tokens 0.3 to 1 measured best, and 0.01 where the inputs are the FFN's own.
        """
        return 0.01 if self is Targets.PRUNED else 0.3


@dataclass(frozen=True)
class FfnSettings:
    """How an FFN is pruned; `rounds` counts round 0, so that 1 is SparseGPT.

    The loop stops early after `patience` rounds without an improvement: the first solution of p, z and s
    often costs some error that the next ones win back.

    `ridge` is relative to the mean diagonal of the inputs' Gram matrix, None for that of the targets; `steps`
    are the Newton steps of an elementwise problem. `products` is entered around every sweep over the tokens:
    where the caller may lower the precision of float32 matrix products, which the solves between the sweeps
    keep.
    """

    layer: LayerSettings
    coefficients: Coefficients = field(default_factory=Coefficients)
    targets: Targets = Targets.PRUNED
    rounds: int = ROUNDS
    patience: int = 2
    ridge: float | None = None
    steps: int = 2
    products: Callable[[], AbstractContextManager[object]] = nullcontext

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise TargetError(f"The number of rounds must be at least 1, and {self.rounds} is not.")


@dataclass(frozen=True)
class FfnRound:
    """The weights of one round. `error` = ||FFN_pruned(X) - Y||^2 and `energy` = ||Y||^2 over all tokens."""

    index: int
    up: PrunedWeight
    gate: PrunedWeight | None
    down: PrunedWeight
    error: float
    energy: float

    @property
    def relative_error(self) -> float:
        """`error / energy`."""
        return self.error / self.energy if self.energy > 0 else 0.0


@dataclass(frozen=True)
class FfnResult:
    """The round with the smallest true error, and the true error of every round that ran."""

    best: FfnRound
    errors: tuple[float, ...]


def prune_ffn(ffn: Ffn, chunks: ChunkStore, settings: FfnSettings) -> FfnResult:
    """Alternate `settings.rounds` times, or until `settings.patience` rounds did not improve; keep the best.

    The weights of `ffn` are (out, in), of any float dtype; `chunks` is used up. Raises `NumericalError` when
    a factorisation fails or the activations are not finite, `TargetError` when N:M does not fit a layer.
    """
    errors: list[float] = []
    best: FfnRound | None = None
    for current in alternate(ffn, chunks, settings):
        errors.append(current.error)
        if best is None or current.error < best.error:
            best = current
        elif current.index - best.index >= settings.patience:
            break
    assert best is not None
    return FfnResult(best=best, errors=tuple(errors))


def alternate(ffn: Ffn, chunks: ChunkStore, settings: FfnSettings) -> Iterator[FfnRound]:
    """Yield every round, `settings.rounds` of them; `chunks` moves on with each."""
    dense = settings.targets is Targets.DENSE
    with settings.products():
        gram = input_gram(chunks)
        inner = inner_moments(ffn, chunks) if dense else None
        outer = None if dense else hidden_moments(ffn, chunks, auxiliary=True)
    inputs = _Inputs.of(gram, settings)
    for index in range(settings.rounds):
        up, gate = _prune_inner(ffn, inputs, inner, settings)
        pruned = _with_inner(ffn, up, gate)
        if dense:
            with settings.products():
                outer = hidden_moments(pruned, chunks, auxiliary=False)
        assert outer is not None
        down = _prune_down(ffn.down.weight, outer, settings, as_dense=not dense and index == 0)
        pruned = replace(pruned, down=Linear(down.weight, ffn.down.bias))
        found = outer.fit(down.weight) if dense else None
        if index + 1 < settings.rounds:
            step = _advance(pruned, chunks, settings)
            inner, outer, found = step.inner, step.hidden, found or step.fit
        elif found is None:
            with settings.products():
                found = fit(pruned, chunks)
        assert found is not None
        yield FfnRound(index, up, gate, down, error=found.error, energy=found.energy)


def _advance(pruned: Ffn, chunks: ChunkStore, settings: FfnSettings) -> Advance:
    coefficients = settings.coefficients
    solver = hidden_solver(pruned.down, coefficients)
    as_papers = settings.targets is Targets.PRUNED
    with settings.products():
        return advance(pruned, chunks, solver, coefficients, steps=settings.steps, as_papers=as_papers)


@dataclass(frozen=True)
class _Inputs:
    """X X^T, which all rounds share, and its factors for pruning and for ridge regression, often the same."""

    gram: Tensor
    factor: InverseFactor
    ridge: InverseFactor

    @classmethod
    def of(cls, gram: Tensor, settings: FfnSettings) -> "_Inputs":
        factor = factorise(gram, damping=settings.layer.damping)
        ridge = settings.targets.ridge if settings.ridge is None else settings.ridge
        same = ridge == settings.layer.damping
        return cls(gram, factor, factor if same else factorise(gram, damping=ridge))


def _prune_inner(
    ffn: Ffn, inputs: _Inputs, moments: InnerMoments | None, settings: FfnSettings
) -> tuple[PrunedWeight, PrunedWeight | None]:
    """Prune up and gate towards z X^T and s X^T, or, without moments, as they are."""

    def prune(weight: Tensor, cross: Tensor | None) -> PrunedWeight:
        target = None if cross is None else ridge_towards(weight, cross, inputs.gram, inputs.ridge)
        return prune_layer(weight, inputs.gram, settings.layer, target=target, factor=inputs.factor)

    up = prune(ffn.up.weight, None if moments is None else moments.up)
    if not isinstance(ffn, GatedFfn):
        return up, None
    return up, prune(ffn.gate.weight, None if moments is None else moments.gate)


def _prune_down(weight: Tensor, moments: HiddenMoments, settings: FfnSettings, *, as_dense: bool) -> PrunedWeight:
    """Prune down towards Y P^T, or, `as_dense`, as it is."""
    inputs = _Inputs.of(moments.gram, settings)
    target = None if as_dense else ridge_towards(weight, moments.cross, inputs.gram, inputs.ridge)
    return prune_layer(weight, inputs.gram, settings.layer, target=target, factor=inputs.factor)


def _with_inner(ffn: Ffn, up: PrunedWeight, gate: PrunedWeight | None) -> Ffn:
    new_up = Linear(up.weight, ffn.up.bias)
    if isinstance(ffn, GatedFfn) and gate is not None:
        return replace(ffn, up=new_up, gate=Linear(gate.weight, ffn.gate.bias))
    return replace(ffn, up=new_up)
