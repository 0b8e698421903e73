"""How a block's feed-forward network is wired, found by what it computes and never by a name.

Linear layers are an FFN when what a later one is given is one of the known functions of what earlier ones
give: f(up(x)), f(gate(x)) up(x), or the same with gate and up stored as one matrix. The functions are tried
on real activations, so a wiring that is found is one that was seen to hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations

import torch
from torch import Tensor

from llmprune.algorithms.feed_forward.activation import GELU, GELU_TANH, QUICK_GELU, RELU, SILU, Activation
from llmprune.algorithms.feed_forward.network import Ffn, GatedFfn, Linear, PlainFfn, hidden, pre_activations
from llmprune.algorithms.feed_forward.sparsellm import FfnRound
from llmprune.algorithms.weights.pruned import PrunedWeight

_FEW_TOKENS = 32  # enough to tell wirings apart, each of which is computed
_ACTIVATIONS = (SILU, GELU_TANH, GELU, RELU, QUICK_GELU)


class Inner(Enum):
    """What the first matrices of an FFN are, in the order in which the block uses or stores them."""

    UP = "up"
    GATE_UP = "gate, up"
    UP_GATE = "up, gate"


@dataclass(frozen=True)
class FfnWiring:
    """An FFN of a block.

    Attributes:
        inner: paths of the layers in front of the activation: one, or two with the same input.
        down: path of the layer behind it.
        kind: what ``inner`` are; a single path with a gate is both matrices, stored as one.
        activation: the function between them.
    """

    inner: tuple[str, ...]
    down: str
    kind: Inner
    activation: Activation

    def assembled(self, layers: Mapping[str, Linear]) -> Ffn:
        """The FFN made of the layers at these paths, fused ones taken apart."""
        first = [layers[path] for path in self.inner]
        if self.kind is Inner.UP:
            return PlainFfn(up=first[0], down=layers[self.down], activation=self.activation)
        if len(first) == 1:
            first = _halves(first[0])
        gate, up = first if self.kind is Inner.GATE_UP else reversed(first)
        return GatedFfn(up=up, gate=gate, down=layers[self.down], activation=self.activation)

    def pre_activations(self, outputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Up and, of a gated FFN, gate (tokens, hidden) of what the layers at ``inner`` give."""
        first = [outputs[path] for path in self.inner]
        if self.kind is Inner.UP:
            return first[0], None
        if len(first) == 1:
            first = [half.contiguous() for half in first[0].chunk(2, dim=1)]
        gate, up = first if self.kind is Inner.GATE_UP else reversed(first)
        return up, gate

    def taken_apart(self, pruned: FfnRound) -> dict[str, PrunedWeight]:
        """The pruned layers by path, fused ones put together again."""
        first = [pruned.up] if pruned.gate is None else [pruned.gate, pruned.up]
        if self.kind is Inner.UP_GATE:
            first.reverse()
        if len(self.inner) < len(first):
            first = [_stacked(first)]
        return dict(zip(self.inner, first, strict=True)) | {self.down: pruned.down}


def find_ffn(
    groups: Sequence[tuple[str, ...]], layers: Mapping[str, Linear], inputs: Mapping[str, Tensor]
) -> FfnWiring | None:
    """The FFN among a block's linear layers; None where no known wiring holds.

    Args:
        groups: paths of layers with the same input, in order of use.
        layers: weights and biases by path.
        inputs: what each layer was given, (tokens, in).
    """
    # Any one or two layers of a group: where attention and FFN run side by side, both may see the same input.
    found = [
        wiring
        for place, group in enumerate(groups)
        for then in groups[place + 1 :]
        if len(then) == 1
        for inner in (*combinations(group, 1), *combinations(group, 2))
        for wiring in _holding(inner, then[0], layers, inputs)
    ]
    return found[0] if len(found) == 1 else None


def _holding(
    inner: tuple[str, ...], down: str, layers: Mapping[str, Linear], inputs: Mapping[str, Tensor]
) -> Iterator[FfnWiring]:
    """The wiring that reproduces best what ``down`` was given, if that is as exact as its dtype allows."""
    if len(inputs[inner[0]]) != len(inputs[down]):
        return  # not the same tokens
    given, seen = (inputs[path][:_FEW_TOKENS].float() for path in (inner[0], down))
    allowed = max(1e-8, 4 * torch.finfo(inputs[down].dtype).eps ** 2)
    energy = float(seen.double().square().sum())
    errors = {
        wiring: float((made - seen).double().square().sum()) for wiring, made in _possible(inner, down, layers, given)
    }
    if errors and energy > 0:
        best = min(errors, key=lambda wiring: errors[wiring])
        if errors[best] <= allowed * energy:
            yield best


def _possible(
    inner: tuple[str, ...], down: str, layers: Mapping[str, Linear], given: Tensor
) -> Iterator[tuple[FfnWiring, Tensor]]:
    """The wirings whose shapes fit, and what ``down`` would be given by each."""
    width = layers[down].weight.shape[1]
    rows = [len(layers[path].weight) for path in inner]
    if rows == [width]:
        kinds = [Inner.UP]
    elif rows in ([width, width], [2 * width]):
        kinds = [Inner.GATE_UP, Inner.UP_GATE]
    else:
        kinds = []
    for kind in kinds:
        wirings = [FfnWiring(inner, down, kind, activation) for activation in _ACTIVATIONS]
        before = pre_activations(wirings[0].assembled(layers), given)  # the same before every activation
        yield from ((wiring, hidden(wiring.assembled(layers), *before)) for wiring in wirings)


def _halves(fused: Linear) -> list[Linear]:
    biases = (None, None) if fused.bias is None else fused.bias.chunk(2)
    return [Linear(weight, bias) for weight, bias in zip(fused.weight.chunk(2), biases, strict=True)]


def _stacked(parts: Sequence[PrunedWeight]) -> PrunedWeight:
    return PrunedWeight(
        weight=torch.cat([part.weight for part in parts]),
        mask=torch.cat([part.mask for part in parts]),
        error=sum(part.error for part in parts),
        energy=sum(part.energy for part in parts),
        damping=max(part.damping for part in parts),
        widened=any(part.widened for part in parts),
    )
