"""Pruning layers that have the same inputs, and so the same Gram matrix and factors: query, key and value; gate and up.

Several processes divide the work. Each chooses the mask of a layer at a time and repairs what it keeps, with factors of
its own. Least-squares targets, and the refit, by far the most of it, are divided by rows: they are independent there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llmprune.algorithms.processes import ALONE, Processes, shared_rows
from llmprune.algorithms.weights.factor import CholeskyFactor, InverseFactor, cholesky, factorise
from llmprune.algorithms.weights.layer import LayerMethod, LayerSettings, choose_weights
from llmprune.algorithms.weights.least_squares import ridge_towards
from llmprune.algorithms.weights.pruned import PrunedWeight
from llmprune.algorithms.weights.refit import refit
from llmprune.errors import NumericalError


@dataclass(frozen=True)
class LayerTask:
    """A layer to prune.

    Attributes:
        weight: (out, in), any float dtype; that of the result.
        cross: gives rows of Z X^T (out, in), for the outputs Z that the layer has to give; None: those of its weight.
    """

    weight: Tensor
    cross: Callable[[slice], Tensor] | None = None


@dataclass(frozen=True)
class _Numbers:
    """Of a ``PrunedWeight``."""

    error: float
    energy: float
    damping: float
    widened: bool


class SharedInputs:
    """The inputs of some layers.

    Args:
        gram: (in, in) = X X^T, float32 or float64.
        layer: how each layer is pruned.
        ridge: of least-squares targets towards the layers' own weights, relative to the mean diagonal of `gram`.
        processes: that divide the work. All have the same `gram`, and get the same results.
    """

    def __init__(self, gram: Tensor, layer: LayerSettings, *, ridge: float, processes: Processes = ALONE) -> None:
        self._gram, self._layer, self._damping = gram, layer, ridge
        self._processes = processes
        self._factor: InverseFactor | None = None
        self._ridge: CholeskyFactor | InverseFactor | None = None

    def prune(self, tasks: Sequence[LayerTask]) -> list[PrunedWeight]:
        """Prune layers, each towards its least-squares target if it has one. A process has one of them at a time.

        Raises:
            NumericalError: the Gram matrix cannot be factored, or an error is not finite; on all processes.
            TargetError: groups of N:M do not divide the inputs.
        """
        rank, size = self._processes.rank, self._processes.size
        pruned: list[PrunedWeight] = []
        for start in range(0, len(tasks), size):
            wave = tasks[start : start + size]
            own: PrunedWeight | None = None
            outcome: _Numbers | NumericalError | None = None
            try:
                if self._layer.method is LayerMethod.SPARSEGPT and (rank < len(wave) or self._serves_both):
                    self._factor = self._factor or factorise(self._gram, damping=self._layer.damping)
                targets = [self._target(task) for task in wave]
                self._ridge = self._ridge if start + size < len(tasks) else None  # one matrix less from here on
                if rank < len(wave):
                    own = self._chosen(wave[rank], *targets[rank])
                    outcome = _Numbers(own.error, own.energy, own.damping, own.widened)
            except NumericalError as error:
                outcome = error
            numbers = self._processes.agree(outcome)
            for owner, (task, (target, _)) in enumerate(zip(wave, targets, strict=True)):
                chosen = self._sent(task, own if owner == rank else None, numbers[owner], owner)
                pruned.append(self._refitted(task, target, chosen))
        return pruned

    def _target(self, task: LayerTask) -> tuple[Tensor | None, bool]:
        """What a layer is to become, if it has a target, and whether that took a wider factor. Rows are divided."""
        if task.cross is None:
            return None, False
        self._ridge = self._ridge or self._ridge_factor()
        own = self._processes.share(range(len(task.weight)))
        here = slice(own.start, own.stop)
        rows = ridge_towards(task.weight[here], task.cross(here), self._gram, self._ridge)
        return shared_rows(rows, len(task.weight), self._processes), self._ridge.widened

    @property
    def _serves_both(self) -> bool:
        """Whether masks and targets take the same factor."""
        return self._damping == self._layer.damping

    def _ridge_factor(self) -> CholeskyFactor | InverseFactor:
        """The factor that there is already, if it is the same."""
        if self._factor is not None and self._serves_both:
            return self._factor
        return cholesky(self._gram, damping=self._damping)

    def _chosen(self, task: LayerTask, target: Tensor | None, widened: bool) -> PrunedWeight:
        """Prune a layer, without the refit."""
        pruned = choose_weights(task.weight, self._gram, self._layer, target=target, factor=self._factor)
        return replace(pruned, widened=pruned.widened or widened)

    def _sent(self, task: LayerTask, own: PrunedWeight | None, numbers: _Numbers | None, owner: int) -> PrunedWeight:
        """What the owner has chosen, on all processes."""
        if own is None:
            assert numbers is not None, "an owner has chosen"
            weight, mask = torch.empty_like(task.weight), torch.empty_like(task.weight, dtype=torch.bool)
            own = PrunedWeight(weight, mask, **vars(numbers))
        for tensor in (own.weight, own.mask):
            self._processes.broadcast(tensor, owner)
        return own

    def _refitted(self, task: LayerTask, target: Tensor | None, chosen: PrunedWeight) -> PrunedWeight:
        steps = self._layer.refit_steps
        if steps > 0 and chosen.error > 0:
            target = task.weight if target is None else target
            chosen = refit(
                chosen, self._gram, target=target, steps=steps, processes=self._processes, missing=chosen.missing
            )
        return replace(chosen, missing=None)
