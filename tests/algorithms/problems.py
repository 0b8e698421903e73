"""Small random problems that the tests of this directory share."""

import torch
from torch import Tensor

from llmprune.algorithms.feed_forward.activation import SILU, Activation
from llmprune.algorithms.feed_forward.network import Ffn, FfnChunk, GatedFfn, Linear, PlainFfn, first_chunk
from llmprune.algorithms.weights.patterns import Pattern, SemiStructured, Unstructured, zero_count


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def activations(tokens: int, features: int, *, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Correlated inputs (tokens, features) of very different scales, as a language model has them."""
    mix = normal(features, features, seed=seed + 1, dtype=dtype) / features**0.5
    scales = torch.logspace(-1, 1, features, dtype=dtype)
    return normal(tokens, features, seed=seed, dtype=dtype) @ mix * scales


def layer(rows: int, columns: int, *, seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """A weight (rows, columns) and the Gram matrix of inputs for it."""
    inputs = activations(4 * columns, columns, seed=seed, dtype=dtype)
    return normal(rows, columns, seed=seed + 2, dtype=dtype), inputs.T @ inputs


def gated_ffn(
    width: int, hidden: int, *, seed: int, dtype: torch.dtype = torch.float32, activation: Activation = SILU
) -> GatedFfn:
    return GatedFfn(
        up=Linear(normal(hidden, width, seed=seed, dtype=dtype) / width**0.5),
        gate=Linear(normal(hidden, width, seed=seed + 1, dtype=dtype) / width**0.5),
        down=Linear(normal(width, hidden, seed=seed + 2, dtype=dtype) / hidden**0.5),
        activation=activation,
    )


def plain_ffn(
    width: int, hidden: int, *, seed: int, activation: Activation, dtype: torch.dtype = torch.float32
) -> PlainFfn:
    return PlainFfn(
        up=Linear(
            normal(hidden, width, seed=seed, dtype=dtype) / width**0.5,
            normal(hidden, seed=seed + 3, dtype=dtype) / 2,
        ),
        down=Linear(
            normal(width, hidden, seed=seed + 2, dtype=dtype) / hidden**0.5,
            normal(width, seed=seed + 4, dtype=dtype) / 2,
        ),
        activation=activation,
    )


def chunks_of(ffn: Ffn, *, count: int = 3, tokens: int = 80, seed: int, dense_shift: float = 0.0) -> list[FfnChunk]:
    """Chunks at the dense activations; with `dense_shift` the dense inputs differ from the pruned ones."""
    width = ffn.up.weight.shape[1]
    chunks = []
    for place in range(count):
        inputs = activations(tokens, width, seed=seed + 10 * place, dtype=ffn.up.weight.dtype)
        if dense_shift:
            noise = normal(tokens, width, seed=seed + 10 * place + 5, dtype=inputs.dtype)
            chunks.append(first_chunk(ffn, inputs, dense_inputs=inputs + dense_shift * noise))
        else:
            chunks.append(first_chunk(ffn, inputs))
    return chunks


def satisfies(mask: Tensor, pattern: Pattern) -> bool:
    """Whether `mask` (out, in), True where kept, has the zeros that `pattern` asks for, and no others."""
    match pattern:
        case Unstructured(ratio):
            return int((~mask).sum()) == zero_count(ratio, mask.numel())
        case SemiStructured(n, m):
            return bool(((~mask).view(mask.shape[0], -1, m).sum(2) == n).all())
