"""A feed-forward network and its pruning problem as data: weights, biases, an activation, chunks of tokens.

No model family is named here. Tokens are rows.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from llmprune.algorithms.feed_forward.activation import Activation


@dataclass(frozen=True)
class Linear:
    """x W^T + b: `weight` (out, in), `bias` (out,) or None."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, inputs: Tensor, *, product: torch.dtype | None = None) -> Tensor:
        """(tokens, in) to (tokens, out), in float32 or as wide as `inputs`.

        The product itself, of factors rounded to `product` or else as narrow as `inputs`, is rounded to the same.
        """
        dtype = product or inputs.dtype
        outputs = (inputs.to(dtype) @ self.weight.to(dtype).T).to(_wide(inputs.dtype))
        return outputs if self.bias is None else outputs.add_(self.bias.to(outputs.dtype))

    def without_bias(self, outputs: Tensor) -> Tensor:
        """`outputs` (tokens, out) minus the bias: what the weight itself has to give."""
        return outputs if self.bias is None else outputs - self.bias.to(outputs.dtype)


@dataclass(frozen=True)
class GatedFfn:
    """down(f(gate(x)) * up(x)): SwiGLU, GeGLU."""

    up: Linear
    gate: Linear
    down: Linear
    activation: Activation


@dataclass(frozen=True)
class PlainFfn:
    """down(f(up(x))): the FFN of OPT, GPT-2, GPT-NeoX."""

    up: Linear
    down: Linear
    activation: Activation


Ffn = GatedFfn | PlainFfn


@dataclass(frozen=True)
class FfnChunk:
    """Some tokens of one FFN's pruning problem.

    Any float dtypes: a store may keep them narrower than the float32 (float64 if any of them is) that sums are
    made in. That of `inputs` is what the model computes in: products of weights and tokens are made in it.

    Attributes:
        inputs: X (tokens, in) of the pruned model.
        outputs: Y (tokens, out), what the FFN has to give.
        up: z (tokens, hidden), auxiliary pre-activations.
        gate: s (tokens, hidden), the gate's; None for a plain FFN.
        scale: (tokens,), what the FFN's outputs are multiplied by where they are used (an expert's, by the router):
            a token's squared errors count with its square. None: 1 for all.
        own_up: (tokens, hidden), what the pruned up projection gives on the inputs, where a pass has kept it.
        own_gate: the same of the gate.
    """

    inputs: Tensor
    outputs: Tensor
    up: Tensor
    gate: Tensor | None = None
    scale: Tensor | None = None
    own_up: Tensor | None = None
    own_gate: Tensor | None = None

    def scaled(self, rows: Tensor) -> Tensor:
        """`rows` (tokens, any), each as much as its token counts."""
        return scaled(rows, self.scale)


def scaled(rows: Tensor, scale: Tensor | None) -> Tensor:
    """`rows` (tokens, any), each times its `scale` (tokens,), in float32 or wider; None: as they are."""
    return rows if scale is None else rows * scale.to(_wide(rows.dtype)).unsqueeze(1)


class ChunkStore(Protocol):
    """Where the chunks live between passes over the tokens: a list, or something over files.

    It is working state: a pass may replace each chunk by one with new z and s, or with the pre-activations of pruned
    weights, which a store may drop. Inputs, outputs and scale stay. The tensors of a chunk are never written to.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> FfnChunk: ...

    def __setitem__(self, index: int, chunk: FfnChunk, /) -> None: ...


def first_chunk(
    ffn: Ffn,
    inputs: Tensor,
    *,
    dense_inputs: Tensor | None = None,
    outputs: Tensor | None = None,
    scale: Tensor | None = None,
) -> FfnChunk:
    """A chunk that starts at the dense activations, float32 or wider but for its inputs.

    Args:
        ffn: the dense FFN.
        inputs: X (tokens, in), the pruned model's.
        dense_inputs: (tokens, in), the dense model's for the same tokens; None: the same as `inputs`.
        outputs: Y (tokens, out), what the FFN has to give; None: what the dense FFN gives on the dense inputs.
        scale: (tokens,), as `FfnChunk` has it.
    """
    up, gate = pre_activations(ffn, inputs if dense_inputs is None else dense_inputs)
    if outputs is None:
        outputs = ffn.down(hidden(ffn, up, gate), product=inputs.dtype)
    return FfnChunk(inputs=inputs, outputs=outputs, up=up, gate=gate, scale=scale)


def pre_activations(ffn: Ffn, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
    """Z and, for a gated FFN, s, (tokens, hidden), of `inputs` (tokens, in), in float32 or wider."""
    match ffn:
        case GatedFfn():
            return ffn.up(inputs), ffn.gate(inputs)
        case PlainFfn():
            return ffn.up(inputs), None


def own_pre_activations(ffn: Ffn, chunk: FfnChunk, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """What `pre_activations` gives of the inputs for pruned weights, in the digits of `dtype`.

    Where the chunk has it, it is what was kept in that dtype. So nothing depends on whether a store had room for it.
    """
    if chunk.own_up is not None:
        return chunk.own_up, chunk.own_gate
    up, gate = pre_activations(ffn, chunk.inputs)
    return up.to(dtype).to(up.dtype), None if gate is None else gate.to(dtype).to(gate.dtype)


def hidden(ffn: Ffn, up: Tensor, gate: Tensor | None) -> Tensor:
    """The input (tokens, hidden) of the down projection: f(s) z, or f(z)."""
    if gate is None:
        return ffn.activation.value(up)
    return ffn.activation.value(gate).mul_(up)


def widen(chunk: FfnChunk) -> FfnChunk:
    """`chunk` with all of its tensors but the inputs in one dtype, float32, or float64 where one of them is."""
    dtype = torch.promote_types(chunk.inputs.dtype, torch.promote_types(chunk.outputs.dtype, chunk.up.dtype))
    dtype = _wide(dtype)
    gate, own_up, own_gate = (
        None if tensor is None else tensor.to(dtype) for tensor in (chunk.gate, chunk.own_up, chunk.own_gate)
    )
    return FfnChunk(chunk.inputs, chunk.outputs.to(dtype), chunk.up.to(dtype), gate, chunk.scale, own_up, own_gate)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
