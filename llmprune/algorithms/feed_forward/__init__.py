"""Zeros in a feed-forward network as one problem: SparseLLM."""

from llmprune.algorithms.feed_forward.activation import GELU, GELU_TANH, QUICK_GELU, RELU, SILU, Activation
from llmprune.algorithms.feed_forward.network import (
    ChunkStore,
    Ffn,
    FfnChunk,
    GatedFfn,
    Linear,
    PlainFfn,
    first_chunk,
)
from llmprune.algorithms.feed_forward.sparsellm import FfnResult, FfnRound, FfnSettings, prune_ffn
from llmprune.algorithms.feed_forward.subproblems import Coefficients
from llmprune.choices import Reference

__all__ = [
    "GELU",
    "GELU_TANH",
    "QUICK_GELU",
    "RELU",
    "SILU",
    "Activation",
    "ChunkStore",
    "Coefficients",
    "Ffn",
    "FfnChunk",
    "FfnResult",
    "FfnRound",
    "FfnSettings",
    "GatedFfn",
    "Linear",
    "PlainFfn",
    "Reference",
    "first_chunk",
    "prune_ffn",
]
