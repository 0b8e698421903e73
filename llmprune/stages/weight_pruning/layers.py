"""Pruning layers that have the same inputs, from what is known of these: products over the tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from llmprune.algorithms.feed_forward.sparsellm import FfnSettings
from llmprune.algorithms.processes import ALONE, Processes
from llmprune.algorithms.weights import magnitude
from llmprune.algorithms.weights.gram import CrossAccumulator, GramAccumulator
from llmprune.algorithms.weights.pruned import PrunedWeight
from llmprune.algorithms.weights.shared_inputs import LayerTask, SharedInputs


@dataclass(frozen=True)
class LayerMoments:
    """Products over the tokens: all that is kept of them.

    Attributes:
        gram: X X^T (in, in) of the layers' inputs.
        cross: (in, in) the dense model's inputs times X^T; None: the dense model is no reference.
        lacking: this process's rows of (out, in), what the layer is to give beside, times X^T; None: nothing.
    """

    gram: Tensor
    cross: Tensor | None
    lacking: Tensor | None


class LayerSums:
    """Adds up the moments batch by batch."""

    def __init__(self) -> None:
        self._gram = GramAccumulator()
        self._cross: CrossAccumulator | None = None
        self._lacking: CrossAccumulator | None = None

    def add(self, inputs: Tensor, *, dense: Tensor | None = None, lacking: Tensor | None = None) -> None:
        """Add tokens: inputs (tokens, in), the dense model's, and what is lacking (..., out)."""
        self._gram.update(inputs)
        if dense is not None:
            self._cross = (self._cross or CrossAccumulator()).update(dense, inputs)
        if lacking is not None:
            rows = lacking.view(-1, lacking.shape[-1])
            self._lacking = (self._lacking or CrossAccumulator()).update(rows, inputs)

    def take(self, processes: Processes = ALONE) -> LayerMoments:
        """The sums over all processes, each of which has some of the tokens; they are given away."""
        cross = None if self._cross is None else self._cross.take(processes)
        lacking = None if self._lacking is None else self._lacking.take_rows(processes)
        return LayerMoments(self._gram.take(processes), cross, lacking)


def prune_layers(
    weights: Mapping[str, Tensor], moments: LayerMoments, settings: FfnSettings
) -> dict[str, PrunedWeight]:
    """Prune layers with the same inputs.

    The target of each is its own weight, or, with the dense reference, the weight that comes closest on the pruned
    model's inputs to what the dense layer gives on its own (ridge regression towards the dense weight). Where all
    inputs were zero, nothing tells what the weights do: the smallest go.

    Args:
        weights: (out, in) by name.
        moments: of their inputs.
        settings: how.

    Raises:
        NumericalError: the Gram matrix cannot be factored, or the error is not finite.
    """
    if are_unseen(moments.gram):
        return prune_unseen(weights, settings)
    inputs = SharedInputs(moments.gram, settings.layer, ridge=settings.relative_ridge, processes=settings.processes)
    pruned = inputs.prune([LayerTask(weight, _cross(weight, moments)) for weight in weights.values()])
    return dict(zip(weights, pruned, strict=True))


def are_unseen(gram: Tensor) -> bool:
    """Whether the inputs behind a Gram matrix (in, in) were all zero."""
    return not bool(gram.diagonal().any())


def prune_unseen(weights: Mapping[str, Tensor], settings: FfnSettings) -> dict[str, PrunedWeight]:
    """Prune layers, (out, in) by name, whose inputs were all zero: by magnitude, with the error of the weights."""
    return {name: magnitude.prune_linear(weight, None, settings.layer.pattern) for name, weight in weights.items()}


def _cross(weight: Tensor, moments: LayerMoments) -> Callable[[slice], Tensor] | None:
    """What gives rows of Z X^T of the outputs Z that a layer has to give; None: those of its own weight."""
    return None if moments.cross is None else partial(_products, weight, moments.cross, moments.lacking)


def _products(weight: Tensor, cross: Tensor, lacking: Tensor | None, rows: slice) -> Tensor:
    outputs = weight[rows].to(cross.dtype) @ cross
    return outputs if lacking is None else outputs.add_(lacking)
