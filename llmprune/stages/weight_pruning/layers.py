"""Pruning layers that have the same inputs, from what is known of these: products over the tokens."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from llmprune.algorithms.feed_forward.sparsellm import FfnSettings
from llmprune.algorithms.weights import magnitude
from llmprune.algorithms.weights.factor import factorise
from llmprune.algorithms.weights.layer import LayerMethod, prune_layer
from llmprune.algorithms.weights.least_squares import ridge_towards
from llmprune.algorithms.weights.pruned import PrunedWeight


def prune_layers(
    weights: Mapping[str, Tensor],
    gram: Tensor,
    settings: FfnSettings,
    *,
    cross: Tensor | None,
    lacking: Tensor | None = None,
) -> dict[str, PrunedWeight]:
    """Prune layers with the same inputs.

    The target of each is its own weight, or, with the dense reference, the weight that comes closest on the pruned
    model's inputs to what the dense layer gives on its own (ridge regression towards the dense weight). Where all
    inputs were zero, nothing tells what the weights do: the smallest go.

    Args:
        weights: (out, in) by name.
        gram: X X^T (in, in) of the inputs.
        settings: how.
        cross: (in, in) the dense model's inputs times X^T; None: the dense model is no reference.
        lacking: (out, in) what the layers are to give beside, times X^T; None: nothing.

    Raises:
        NumericalError: the Gram matrix cannot be factored, or the error is not finite.
    """
    if are_unseen(gram):
        return prune_unseen(weights, settings)
    layer = settings.layer
    factor = factorise(gram, damping=layer.damping) if layer.method is LayerMethod.SPARSEGPT else None
    held = factorise(gram, damping=settings.relative_ridge) if cross is not None else None
    pruned: dict[str, PrunedWeight] = {}
    for name, weight in weights.items():
        target = None
        if cross is not None and held is not None:
            outputs = weight.to(gram.dtype) @ cross
            target = ridge_towards(weight, outputs if lacking is None else outputs + lacking, gram, held)
        pruned[name] = prune_layer(weight, gram, layer, target=target, factor=factor)
    return pruned


def are_unseen(gram: Tensor) -> bool:
    """Whether the inputs behind a Gram matrix (in, in) were all zero."""
    return not bool(gram.diagonal().any())


def prune_unseen(weights: Mapping[str, Tensor], settings: FfnSettings) -> dict[str, PrunedWeight]:
    """Prune layers, (out, in) by name, whose inputs were all zero: by magnitude, with the error of the weights."""
    return {name: magnitude.prune_linear(weight, None, settings.layer.pattern) for name, weight in weights.items()}
