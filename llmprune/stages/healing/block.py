"""Healing one open block: its layers that add to the residual stream are solved one after the other.

Each is asked for what the block's output lacks. For the layer behind which nothing looks at the sum before the block
ends (the FFN's down projection) that is exact. For the attention's output projection in front of an FFN it is the first
order: how the FFN answers to the change is left out. So the block is run on the held-back windows with what each ridge
gives, and the ridge that brings its output closest to the dense one is taken. A layer's new weight is kept only where
the loss of the whole model on these windows falls.

Tokens count relative to the length of their dense hidden state, as the norms behind see them. Otherwise a few tokens
whose states are a hundred times as long (the first of a window, mostly) set the scale of the ridge and of the error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmprune.algorithms.healing import MomentsAccumulator, correct
from llmprune.artifacts.records.healing import LayerHealing
from llmprune.errors import NumericalError
from llmprune.models.block_linears import LinearSlot
from llmprune.models.open_block import OpenBlock
from llmprune.stages.passes import Stream


@dataclass(frozen=True)
class Windows:
    """The same windows in the pruned and in the dense model."""

    pruned: Stream
    dense: Stream


@dataclass(frozen=True)
class HealedLayer:
    """What came of a layer: the record, and the tensors to store by name, none where the old ones stay."""

    record: LayerHealing
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class _Layer:
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


@dataclass(frozen=True)
class BlockSolver:
    """The work on one open block.

    Attributes:
        block: open in the pruned model; its weights change as the work goes on.
        goal: the block of the dense model whose input it is to give.
        solved_on: windows that weights are solved on.
        held_back: windows that choose.
        ridges: to choose from.
        masked: names of the tensors whose zeros stay zeros; None: all.
        loss: mean loss of the model on the held-back windows as it is now, in nats/token; None: not finite.
    """

    block: OpenBlock
    goal: int
    solved_on: Windows
    held_back: Windows
    ridges: Sequence[float]
    masked: frozenset[str] | None
    loss: Callable[[], float | None]

    def heal(self, path: str, loss_before: float) -> HealedLayer:
        """Solve the layer at ``path``, and install the result if the model's loss falls below ``loss_before``.

        Raises:
            NumericalError: activations that cannot be solved with; names the layer.
        """
        old, was = self._stored(path), self.block.parameters(path)
        mask = self._mask(old)
        errors: dict[float, float] = {}
        solved: dict[float, _Layer] = {}
        error_before = self._error()
        for ridge, layer in self._solved(old, mask):
            self._install(layer)
            errors[ridge], solved[ridge] = self._error(), layer
        best = min(errors, key=lambda ridge: errors[ridge])
        self._install(solved[best])
        record = LayerHealing(
            tensor=old.slot.tensor,
            bias=old.bias_name,
            kind=path,
            ridge=best,
            error_before=error_before,
            error=errors[best],
            loss_before=loss_before,
            loss=self.loss(),
            masked=mask is not None,
        )
        if record.kept:
            return HealedLayer(record, solved[best].tensors)
        self.block.put_back(path, was)
        return HealedLayer(record, {})

    def _stored(self, path: str) -> _Layer:
        slot, name = self.block.linears()[path], self.block.bias_tensor(path)
        weight = self.block.stored_weights([slot])[path]
        bias = None if name is None else self.block.decoder.stored([name])[name].to(weight.device)
        return _Layer(slot, weight, name, bias)

    def _mask(self, layer: _Layer) -> Tensor | None:
        """The weights that may change, where some must stay zero."""
        kept = layer.weight != 0
        fixed = self.masked is None or layer.slot.tensor in self.masked
        return kept if fixed and not bool(kept.all()) else None

    def _solved(self, old: _Layer, mask: Tensor | None) -> Iterator[tuple[float, _Layer]]:
        """The layer as each ridge gives it, in the dtype of the checkpoint."""
        path, sums = old.slot.path, MomentsAccumulator(bias=old.bias is not None)
        for batch in self.solved_on.pruned.entering(self.block.index):
            inputs, output = self.block.inputs_of([path], batch.hidden, batch.call)
            dense = self.solved_on.dense.states(self.goal, batch.place)
            dense, output = (_wide(states).view(-1, states.shape[-1]) for states in (dense, output))
            sums.update(inputs[path], dense - output, weights=1 / _lengths(dense))
        moments = sums.result()
        for ridge in self.ridges:
            try:
                change = correct(moments, ridge=ridge, mask=mask)
            except NumericalError as error:
                raise NumericalError(f"Block {self.block.index}, {path}: {error}") from error
            weight = (_wide(old.weight) + change.weight).to(old.weight.dtype)
            bias = None
            if old.bias is not None and change.bias is not None:
                bias = (_wide(old.bias) + change.bias).to(old.bias.dtype)
            yield ridge, _Layer(old.slot, weight, old.bias_name, bias)

    def _install(self, layer: _Layer) -> None:
        path = layer.slot.path
        self.block.install({path: layer.weight}, {} if layer.bias is None else {path: layer.bias})

    def _error(self) -> float:
        """Mean over the held-back tokens of ||H - h||^2 / ||H||^2, as the block is now."""
        total, count = 0.0, 0
        for batch in self.held_back.pruned.entering(self.block.index):
            output = _wide(self.block.forward(batch.hidden, batch.call))
            dense = _wide(self.held_back.dense.states(self.goal, batch.place))
            errors = (dense - output).norm(dim=-1) / _lengths(dense)
            total += float(errors.double().square().sum())
            count += errors.numel()
        return total / count


def _wide(tensor: Tensor) -> Tensor:
    """In float32, or in float64 as it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _lengths(states: Tensor) -> Tensor:
    """Norms of hidden states, none of them much smaller than most: a token is never all that counts."""
    lengths = torch.linalg.vector_norm(states, dim=-1)
    return torch.clamp(lengths, min=0.1 * float(lengths.median()))
