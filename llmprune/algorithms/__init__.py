"""The mathematics: tensors in, tensors out. No files, no model classes, no console.

This is a stable interface. What `__all__` names stays where it is, with its arguments and its meaning; a change
would be a new major version. Nothing here changes the tensors that it is given.

One linear layer, from the activations that calibration saw:

    >>> import torch
    >>> from llmprune.algorithms import GramAccumulator, LayerSettings, parse_pattern, prune_layer
    >>> generator = torch.Generator().manual_seed(0)
    >>> weight = torch.randn(8, 16, generator=generator)  # (out, in)
    >>> inputs = torch.randn(100, 16, generator=generator)  # (tokens, in)
    >>> gram = GramAccumulator().update(inputs[:60]).update(inputs[60:]).result()  # chunk by chunk
    >>> pruned = prune_layer(weight, gram, LayerSettings(parse_pattern("2:4")))
    >>> pruned.weight.shape, pruned.zeros
    (torch.Size([8, 16]), 64)
    >>> direct = (inputs @ (pruned.weight - weight).T).square().sum()  # what the outputs lost
    >>> abs(pruned.error / float(direct) - 1) < 1e-4
    True

A feed-forward network as one problem (SparseLLM):

    >>> from llmprune.algorithms import SILU, FfnSettings, GatedFfn, Linear, first_chunk, parse_sparsity, prune_ffn
    >>> up, gate = (Linear(torch.randn(32, 16, generator=generator)) for _ in range(2))
    >>> ffn = GatedFfn(up, gate, Linear(torch.randn(16, 32, generator=generator)), SILU)
    >>> chunks = [first_chunk(ffn, part) for part in inputs.split(50)]
    >>> result = prune_ffn(ffn, chunks, FfnSettings(LayerSettings(parse_sparsity("70%"))))
    >>> result.best.error == min(result.errors)
    True
"""

from llmprune.algorithms.blocks import (
    BlockEvaluator,
    Candidate,
    ChunkDone,
    EliminationRule,
    Round,
    WindowLosses,
    angular_distances,
    closest_run,
    cosine_similarity_sum,
    forked_losses,
    greedy_rounds,
    least_influential,
    removal_count,
)
from llmprune.algorithms.feed_forward import (
    GELU,
    GELU_TANH,
    QUICK_GELU,
    RELU,
    SILU,
    Activation,
    ChunkStore,
    Coefficients,
    Ffn,
    FfnChunk,
    FfnResult,
    FfnRound,
    FfnSettings,
    GatedFfn,
    Linear,
    PlainFfn,
    Reference,
    first_chunk,
    prune_ffn,
)
from llmprune.algorithms.healing import Correction, Moments, MomentsAccumulator, correct, remaining_error
from llmprune.algorithms.pareto import pareto_front
from llmprune.algorithms.weights import (
    CholeskyFactor,
    CrossAccumulator,
    GramAccumulator,
    InverseFactor,
    LayerMethod,
    LayerSettings,
    Pattern,
    PrunedWeight,
    SemiStructured,
    Unstructured,
    check_fits,
    cholesky,
    factorise,
    parse_pattern,
    parse_sparsity,
    prune_layer,
    ridge_towards,
    select_mask,
)

__all__ = [
    "GELU",
    "GELU_TANH",
    "QUICK_GELU",
    "RELU",
    "SILU",
    "Activation",
    "BlockEvaluator",
    "Candidate",
    "CholeskyFactor",
    "ChunkDone",
    "ChunkStore",
    "Coefficients",
    "Correction",
    "CrossAccumulator",
    "EliminationRule",
    "Ffn",
    "FfnChunk",
    "FfnResult",
    "FfnRound",
    "FfnSettings",
    "GatedFfn",
    "GramAccumulator",
    "InverseFactor",
    "LayerMethod",
    "LayerSettings",
    "Linear",
    "Moments",
    "MomentsAccumulator",
    "Pattern",
    "PlainFfn",
    "PrunedWeight",
    "Reference",
    "Round",
    "SemiStructured",
    "Unstructured",
    "WindowLosses",
    "angular_distances",
    "check_fits",
    "cholesky",
    "closest_run",
    "correct",
    "cosine_similarity_sum",
    "factorise",
    "first_chunk",
    "forked_losses",
    "greedy_rounds",
    "least_influential",
    "pareto_front",
    "parse_pattern",
    "parse_sparsity",
    "prune_ffn",
    "prune_layer",
    "remaining_error",
    "removal_count",
    "ridge_towards",
    "select_mask",
]
