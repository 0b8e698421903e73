"""Zeros in one weight matrix: what is pruned (patterns), by what (methods), and how what stays is repaired."""

from llmprune.algorithms.weights.factor import CholeskyFactor, InverseFactor, cholesky, factorise
from llmprune.algorithms.weights.gram import CrossAccumulator, GramAccumulator
from llmprune.algorithms.weights.layer import LayerMethod, LayerSettings, prune_layer
from llmprune.algorithms.weights.least_squares import ridge_towards
from llmprune.algorithms.weights.patterns import (
    Pattern,
    SemiStructured,
    Unstructured,
    check_fits,
    parse_pattern,
    parse_sparsity,
    select_mask,
)
from llmprune.algorithms.weights.pruned import PrunedWeight

__all__ = [
    "CholeskyFactor",
    "CrossAccumulator",
    "GramAccumulator",
    "InverseFactor",
    "LayerMethod",
    "LayerSettings",
    "Pattern",
    "PrunedWeight",
    "SemiStructured",
    "Unstructured",
    "check_fits",
    "cholesky",
    "factorise",
    "parse_pattern",
    "parse_sparsity",
    "prune_layer",
    "ridge_towards",
    "select_mask",
]
