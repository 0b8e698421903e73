"""Pruning layers that have the same inputs, and so the same Gram matrix and factors: query, key and value; gate and up.

Several processes divide the work. Each chooses the mask of a layer at a time and repairs what it keeps, with factors of
its own. The refit, by far the most of it, is divided by rows: given the mask, they are independent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llmprune.algorithms.processes import ALONE, Processes
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
        cross: gives Z X^T (out, in), for the outputs Z that the layer has to give; None: those of its own weight.
    """

    weight: Tensor
    cross: Callable[[], Tensor] | None = None


@dataclass(frozen=True)
class _Numbers:
    """Of a ``PrunedWeight``."""

    error: float
    energy: float
    damping: float
    widened: bool


@dataclass(frozen=True)
class _Chosen:
    """A layer before the refit, and its least-squares target; None: its weight itself."""

    pruned: PrunedWeight
    target: Tensor | None

    @property
    def numbers(self) -> _Numbers:
        one = self.pruned
        return _Numbers(one.error, one.energy, one.damping, one.widened)


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
            own: _Chosen | None = None
            outcome: _Numbers | NumericalError | None = None
            if rank < len(wave):
                try:
                    own = self._chosen(wave[rank], more=start + size + rank < len(tasks))
                    outcome = own.numbers
                except NumericalError as error:
                    outcome = error
            numbers = self._processes.agree(outcome)
            for owner, task in enumerate(wave):
                chosen = self._sent(task, own if owner == rank else None, numbers[owner], owner)
                pruned.append(self._refitted(task, chosen))
        return pruned

    def _chosen(self, task: LayerTask, *, more: bool) -> _Chosen:
        """Prune a layer, without the refit. The ridge's factor is held only while ``more`` layers ask for it."""
        if self._factor is None and self._layer.method is LayerMethod.SPARSEGPT:
            self._factor = factorise(self._gram, damping=self._layer.damping)
        target, widened = None, False
        if task.cross is not None:
            ridge = self._ridge or self._ridge_factor()
            target = ridge_towards(task.weight, task.cross(), self._gram, ridge)
            widened = ridge.widened
            self._ridge = ridge if more else None
            del ridge
        pruned = choose_weights(task.weight, self._gram, self._layer, target=target, factor=self._factor)
        return _Chosen(replace(pruned, widened=pruned.widened or widened), target)

    def _ridge_factor(self) -> CholeskyFactor | InverseFactor:
        """The factor that there is already, if it is the same."""
        if self._factor is not None and self._damping == self._layer.damping:
            return self._factor
        return cholesky(self._gram, damping=self._damping)

    def _sent(self, task: LayerTask, own: _Chosen | None, numbers: _Numbers | None, owner: int) -> _Chosen:
        """What the owner has chosen, on all processes."""
        if self._processes.size == 1:
            assert own is not None, "the only process owns all"
            return own
        assert numbers is not None, "an owner has chosen"
        refitted = self._layer.refit_steps > 0 and numbers.error > 0
        if own is None:
            shape, device = task.weight.shape, task.weight.device
            mask = torch.empty(shape, dtype=torch.bool, device=device)
            target = self._gram.new_empty(shape) if task.cross is not None and refitted else None
            weight = torch.empty(shape, dtype=task.weight.dtype, device=device)
            own = _Chosen(PrunedWeight(weight, mask, **vars(numbers)), target)
        sent = [own.pruned.weight, own.pruned.mask]
        sent += [own.target] if own.target is not None and refitted else []
        for tensor in sent:
            self._processes.broadcast(tensor, owner)
        return own

    def _refitted(self, task: LayerTask, chosen: _Chosen) -> PrunedWeight:
        steps = self._layer.refit_steps
        if steps == 0 or chosen.pruned.error == 0:
            return chosen.pruned
        target = task.weight if chosen.target is None else chosen.target
        return refit(chosen.pruned, self._gram, target=target, steps=steps, processes=self._processes)
