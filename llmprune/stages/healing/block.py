"""Healing one open block: its layers that add to the residual stream are solved one after the other.

Each is asked for what the block's output lacks. For the layer behind which nothing looks at the sum before the block
ends (the FFN's down projection) that is exact. For the attention's output projection in front of an FFN it is the first
order: how the FFN answers to the change is left out. So the block is run on the held-back windows with what each ridge
gives, and the ridge that brings its output closest to the dense one is taken. A layer's new weight is kept only where
the loss of the whole model on these windows falls.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llmprune.algorithms.healing import Moments, correct
from llmprune.artifacts.records.healing import LayerHealing
from llmprune.errors import NumericalError
from llmprune.models.open_block import OpenBlock
from llmprune.ranks.group import Ranks
from llmprune.stages.healing.layer import StoredLayer, add_lacking, install, lengths, stored_layer, wide
from llmprune.stages.passes import Stream


@dataclass(frozen=True)
class Windows:
    """The same windows in the pruned and in the dense model."""

    pruned: Stream
    dense: Stream

    def find(self, files: Collection[str]) -> None:
        """Read from these files of the pass from now on, and from those that are written."""
        self.pruned.find(files)
        self.dense.find(files)


@dataclass(frozen=True)
class HealedLayer:
    """What came of a layer: the record, and the tensors to store by name, none where the old ones stay."""

    record: LayerHealing
    tensors: dict[str, Tensor]


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
        ranks: which divide the windows and the ridges, and get the same weights.
    """

    block: OpenBlock
    goal: int
    solved_on: Windows
    held_back: Windows
    ridges: Sequence[float]
    masked: frozenset[str] | None
    loss: Callable[[], float | None]
    ranks: Ranks

    def heal(self, path: str, loss_before: float) -> HealedLayer:
        """Solve the layer at ``path``, and install the result if the model's loss falls below ``loss_before``.

        Raises:
            NumericalError: activations that cannot be solved with; names the layer.
        """
        old, was = stored_layer(self.block, path), self.block.parameters(path)
        mask = old.mask(self.masked)
        errors: dict[float, float] = {}
        solved: dict[float, StoredLayer] = {}
        error_before = self._error()
        for ridge, layer in self._solved(old, mask):
            install(self.block, layer)
            errors[ridge], solved[ridge] = self._error(), layer
        best = min(errors, key=lambda ridge: errors[ridge])
        install(self.block, solved[best])
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

    def _solved(self, old: StoredLayer, mask: Tensor | None) -> Iterator[tuple[float, StoredLayer]]:
        """The layer as each ridge gives it, in the dtype of the checkpoint."""
        path, sums = old.slot.path, old.sums()
        for batch in self.solved_on.pruned.entering(self.block.index):
            inputs, output = self.block.inputs_of([path], batch.hidden, batch.call)
            add_lacking(sums, inputs[path], output, self.solved_on.dense.states(self.goal, batch.place))
        moments = sums.take(self.ranks)
        for start in range(0, len(self.ridges), self.ranks.size):
            wave = self.ridges[start : start + self.ranks.size]
            own = self._layer(old, moments, mask, wave[self.ranks.rank]) if self.ranks.rank < len(wave) else None
            self.ranks.agree(own if isinstance(own, NumericalError) else None)
            for owner, ridge in enumerate(wave):
                yield ridge, self._sent(old, own if owner == self.ranks.rank else None, owner)

    def _layer(
        self, old: StoredLayer, moments: Moments, mask: Tensor | None, ridge: float
    ) -> StoredLayer | NumericalError:
        """The layer as a ridge gives it, or what the solve failed with."""
        try:
            return old.corrected(correct(moments, ridge=ridge, mask=mask))
        except NumericalError as error:
            return NumericalError(f"Block {self.block.index}, {old.slot.path}: {error}")

    def _sent(self, old: StoredLayer, own: StoredLayer | NumericalError | None, owner: int) -> StoredLayer:
        """A layer that its owner has solved, on all ranks."""
        if not isinstance(own, StoredLayer):
            bias = None if old.bias is None else torch.empty_like(old.bias)
            own = replace(old, weight=torch.empty_like(old.weight), bias=bias)
        for tensor in (own.weight, own.bias):
            if tensor is not None:
                self.ranks.broadcast(tensor, owner)
        return own

    def _error(self) -> float:
        """Mean over the held-back tokens of ||H - h||^2 / ||H||^2, as the block is now."""
        total, count = 0.0, 0
        for batch in self.held_back.pruned.entering(self.block.index):
            output = wide(self.block.forward(batch.hidden, batch.call))
            dense = wide(self.held_back.dense.states(self.goal, batch.place))
            errors = (dense - output).norm(dim=-1) / lengths(dense)
            total += float(errors.double().square().sum())
            count += errors.numel()
        sums = self.ranks.sum(torch.tensor([total, count], dtype=torch.float64))
        return float(sums[0] / sums[1])
