"""Pruning layers that have the same inputs, from what is known of these: products over the tokens."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from llmprune.algorithms.feed_forward.sparsellm import FfnSettings
from llmprune.algorithms.weights.factor import factorise
from llmprune.algorithms.weights.layer import prune_layer
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
    model's inputs to what the dense layer gives on its own (ridge regression towards the dense weight).

    Args:
        weights: (out, in) by name.
        gram: X X^T (in, in) of the inputs.
        settings: how.
        cross: (in, in) the dense model's inputs times X^T; None: the dense model is no reference.
        lacking: (out, in) what the layers are to give beside, times X^T; None: nothing.

    Raises:
        NumericalError: the Gram matrix cannot be factored, or the error is not finite.
    """
    layer = settings.layer
    factor = factorise(gram, damping=layer.damping)
    held = factorise(gram, damping=settings.relative_ridge) if cross is not None else factor
    pruned: dict[str, PrunedWeight] = {}
    for name, weight in weights.items():
        target = None
        if cross is not None:
            outputs = weight.to(gram.dtype) @ cross
            target = ridge_towards(weight, outputs if lacking is None else outputs + lacking, gram, held)
        pruned[name] = prune_layer(weight, gram, layer, target=target, factor=factor)
    return pruned
