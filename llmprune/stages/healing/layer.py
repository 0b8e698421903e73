"""A layer that is solved anew: as it is stored, as a correction changes it, and what is summed up to solve it.

Tokens count relative to the length of their dense hidden state, as the norms behind see them. Otherwise a few tokens
whose states are a hundred times as long (the first of a window, mostly) set the scale of the ridge and of the error.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llmprune.algorithms.healing import Correction, MomentsAccumulator
from llmprune.models.block_linears import LinearSlot
from llmprune.models.open_block import OpenBlock


@dataclass(frozen=True)
class StoredLayer:
    """A layer as it is stored: weight (out, in), and bias (out,) where it has one."""

    slot: LinearSlot
    weight: Tensor
    bias_name: str | None
    bias: Tensor | None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its tensors as the checkpoint holds them."""
        stored = {self.slot.tensor: self.slot.turned(self.weight)}
        if self.bias_name is not None and self.bias is not None:
            stored[self.bias_name] = self.bias
        return stored

    def mask(self, masked: Container[str] | None) -> Tensor | None:
        """The weights (out, in) that may change; None: all may.

        Args:
            masked: names of the tensors whose zeros stay zeros; None: of all.
        """
        kept = self.weight != 0
        fixed = masked is None or self.slot.tensor in masked
        return kept if fixed and not bool(kept.all()) else None

    def corrected(self, change: Correction) -> StoredLayer:
        """The layer with a correction added, in the dtype of the checkpoint."""
        weight = (wide(self.weight) + change.weight).to(self.weight.dtype)
        bias = None
        if self.bias is not None and change.bias is not None:
            bias = (wide(self.bias) + change.bias).to(self.bias.dtype)
        return replace(self, weight=weight, bias=bias)

    def sums(self) -> MomentsAccumulator:
        """Nothing added up yet, for a layer like this."""
        return MomentsAccumulator(bias=self.bias is not None)


def stored_layer(block: OpenBlock, path: str) -> StoredLayer:
    """The layer at ``path`` of an open block, as the checkpoint holds it."""
    slot, name = block.linears()[path], block.bias_tensor(path)
    weight = block.stored_weights([slot])[path]
    bias = None if name is None else block.decoder.stored([name])[name].to(weight.device)
    return StoredLayer(slot, weight, name, bias)


def install(block: OpenBlock, layer: StoredLayer) -> None:
    """Let the open block compute with a layer from now on."""
    path = layer.slot.path
    block.install({path: layer.weight}, {} if layer.bias is None else {path: layer.bias})


@contextmanager
def installed(block: OpenBlock, layer: StoredLayer) -> Iterator[None]:
    """The same for as long as the context lasts."""
    was = block.parameters(layer.slot.path)
    install(block, layer)
    try:
        yield
    finally:
        block.put_back(layer.slot.path, was)


def add_lacking(sums: MomentsAccumulator, inputs: Tensor, output: Tensor, dense: Tensor) -> None:
    """Add a batch: what a layer is given, and what its block's output lacks of the dense hidden states.

    Args:
        sums: of the layer.
        inputs: (tokens, in).
        output: (windows, seq_len, hidden_size).
        dense: of the same shape.
    """
    dense, output = (wide(states).view(-1, states.shape[-1]) for states in (dense, output))
    sums.update(inputs, dense - output, weights=1 / lengths(dense))


def wide(tensor: Tensor) -> Tensor:
    """In float32, or in float64 as it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def lengths(states: Tensor) -> Tensor:
    """Norms of hidden states, none of them much smaller than most: a token is never all that counts."""
    found = torch.linalg.vector_norm(states, dim=-1)
    return torch.clamp(found, min=0.1 * float(found.median()))
