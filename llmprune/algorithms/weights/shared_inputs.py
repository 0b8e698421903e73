"""Pruning layers that have the same inputs, and so the same Gram matrix and factors: query, key and value; gate and up.

Several processes divide the rows of every layer: of its least-squares target, its mask and repair, and the refit. What
is of the inputs alone, the factors, is made by an owner (`shared_factors`). Rows depend on one another where a ratio of
zeros holds for all of them: there their scores are compared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from llmprune.algorithms.processes import ALONE, Processes, Rows
from llmprune.algorithms.weights.factor import CholeskyFactor, InverseFactor
from llmprune.algorithms.weights.layer import LayerMethod, LayerSettings, choose_weights
from llmprune.algorithms.weights.least_squares import ridge_towards
from llmprune.algorithms.weights.pruned import PrunedWeight
from llmprune.algorithms.weights.refit import refit
from llmprune.algorithms.weights.shared_factors import shared_factors
from llmprune.errors import NumericalError


@dataclass(frozen=True)
class LayerTask:
    """A layer to prune.

    Attributes:
        weight: (out, in), any float dtype; that of the result.
        cross: gives the rows of Z X^T (out, in) that are a process's own, for the outputs Z that the layer has to give;
            None: those of its weight.
    """

    weight: Tensor
    cross: Callable[[slice], Tensor] | None = None


class SharedInputs:
    """The inputs of some layers.

    Args:
        gram: (in, in) = X X^T, float32 or float64.
        layer: how each layer is pruned.
        ridge: of least-squares targets towards the layers' own weights, relative to the mean diagonal of `gram`.
        processes: that divide the work. All have the same `gram`, and get the same results.
        again: whether more layers come later, for which the factor behind masks is kept.
    """

    def __init__(
        self,
        gram: Tensor,
        layer: LayerSettings,
        *,
        ridge: float,
        processes: Processes = ALONE,
        again: bool = False,
    ) -> None:
        self._gram, self._layer, self._damping = gram, layer, ridge
        self._processes, self._again = processes, again
        self._factor: InverseFactor | None = None

    def prune(self, tasks: Sequence[LayerTask]) -> list[PrunedWeight]:
        """Prune layers, each towards its least-squares target if it has one.

        One process makes all targets before the factor behind masks, and has one factor at a time. Several make both
        factors at once.

        Raises:
            NumericalError: the Gram matrix cannot be factored, or an error is not finite; on all processes.
            TargetError: groups of N:M do not divide the inputs.
        """
        masks = self._layer.method is LayerMethod.SPARSEGPT
        one_serves = masks and self._damping == self._layer.damping
        inverse = self._layer.damping if masks and self._factor is None else None
        solve = self._damping if any(task.cross is not None for task in tasks) and not one_serves else None
        at_once = self._processes.size > 1 or solve is None
        ridge = self._make(inverse=inverse if at_once else None, solve=solve)
        targets = [self._target(task, ridge or self._factor) for task in tasks]
        del ridge
        if not at_once:
            self._make(inverse=inverse, solve=None)
        return [self._pruned(task, *targets.pop(0), last=task is tasks[-1]) for task in tasks]

    def _make(self, *, inverse: float | None, solve: float | None) -> CholeskyFactor | None:
        """Make factors of these dampings: the one behind masks is kept, the one for targets is returned."""
        factor, ridge = shared_factors(self._gram, self._processes, inverse=inverse, solve=solve)
        self._factor = self._factor or factor
        return ridge

    def _target(self, task: LayerTask, factor: CholeskyFactor | InverseFactor | None) -> tuple[Tensor, bool]:
        """What this process's rows are to become, and whether that took a wider factor."""
        here = Rows(len(task.weight), self._processes).here
        if task.cross is None:
            return task.weight[here], False
        assert factor is not None, "a layer has a target"
        return ridge_towards(task.weight[here], task.cross(here), self._gram, factor), factor.widened

    def _pruned(self, task: LayerTask, target: Tensor, widened: bool, *, last: bool) -> PrunedWeight:
        """Prune this process's rows towards their target; gives all rows."""
        rows, spent = Rows(len(task.weight), self._processes), last and not self._again
        own_weight, factor = task.weight[rows.here], self._factor
        outcome: PrunedWeight | NumericalError
        try:
            outcome = choose_weights(
                own_weight, self._gram, self._layer, target=target, factor=factor, rows=rows, spent=spent
            )
        except NumericalError as error:  # which comes behind all that processes tell one another
            outcome = error
        own = self._agreed(outcome)
        if spent:
            self._factor = None
        if self._layer.refit_steps > 0 and own.error > 0:
            steps, missing = self._layer.refit_steps, own.missing
            own = refit(own, self._gram, target=target, steps=steps, processes=self._processes, missing=missing)
        widened = own.widened or widened
        return replace(own, weight=rows.join(own.weight), mask=rows.join(own.mask), missing=None, widened=widened)

    def _agreed(self, own: PrunedWeight | NumericalError) -> PrunedWeight:
        """This process's rows with the errors of all.

        Raises:
            NumericalError: a process has one.
        """
        parts = self._processes.agree(own if isinstance(own, NumericalError) else (own.error, own.energy))
        assert isinstance(own, PrunedWeight), "an error is raised by all"
        error, energy = (sum(part) for part in zip(*parts, strict=True))
        return replace(own, error=error, energy=energy)
