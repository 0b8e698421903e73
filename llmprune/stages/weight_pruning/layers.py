"""Pruning layers that have the same inputs, from what is known of these: products over the tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from llmprune.algorithms.feed_forward.sparsellm import FfnSettings
from llmprune.algorithms.weights import magnitude
from llmprune.algorithms.weights.factor import cholesky, factorise
from llmprune.algorithms.weights.gram import CrossAccumulator, GramAccumulator
from llmprune.algorithms.weights.layer import LayerMethod, prune_layer
from llmprune.algorithms.weights.least_squares import ridge_towards
from llmprune.algorithms.weights.pruned import PrunedWeight


@dataclass(frozen=True)
class LayerMoments:
    """Products over the tokens: all that is kept of them.

    Attributes:
        gram: X X^T (in, in) of the layers' inputs.
        cross: (in, in) the dense model's inputs times X^T; None: the dense model is no reference.
        lacking: (out, in) what the layers are to give beside, times X^T; None: nothing.
    """

    gram: Tensor
    cross: Tensor | None
    lacking: Tensor | None


class LayerSums:
    """Adds up the moments batch by batch. Sums over several processes would be added up in ``take``."""

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

    def take(self) -> LayerMoments:
        """The sums, which are given away."""
        cross, lacking = (None if sums is None else sums.take() for sums in (self._cross, self._lacking))
        return LayerMoments(self._gram.take(), cross, lacking)


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
    gram, layer = moments.gram, settings.layer
    if are_unseen(gram):
        return prune_unseen(weights, settings)
    factor = factorise(gram, damping=layer.damping) if layer.method is LayerMethod.SPARSEGPT else None
    held = None if moments.cross is None else cholesky(gram, damping=settings.relative_ridge)
    pruned: dict[str, PrunedWeight] = {}
    for name, weight in weights.items():
        target = None
        if moments.cross is not None and held is not None:
            outputs = weight.to(gram.dtype) @ moments.cross
            outputs = outputs if moments.lacking is None else outputs.add_(moments.lacking)
            target = ridge_towards(weight, outputs, gram, held)
        one = prune_layer(weight, gram, layer, target=target, factor=factor)
        pruned[name] = replace(one, widened=one.widened or (held is not None and held.widened))
    return pruned


def are_unseen(gram: Tensor) -> bool:
    """Whether the inputs behind a Gram matrix (in, in) were all zero."""
    return not bool(gram.diagonal().any())


def prune_unseen(weights: Mapping[str, Tensor], settings: FfnSettings) -> dict[str, PrunedWeight]:
    """Prune layers, (out, in) by name, whose inputs were all zero: by magnitude, with the error of the weights."""
    return {name: magnitude.prune_linear(weight, None, settings.layer.pattern) for name, weight in weights.items()}
