"""Hidden states entering a block, from file to file: those of the pruned model and, for comparison, of the dense model.

The two models see the same windows. The pruned stream shows each block the errors of the blocks before it. The dense
stream is what a block should give in spite of them. With it as reference (``--targets-from dense``, and refit) SmolLM2
at 70% zeros has a perplexity of 53.0 on WikiText-2; SparseLLM as in its paper, on the pruned stream alone, has 99.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from llmprune.models.capture import BlockCall
from llmprune.stages.passes import Stream


@dataclass(frozen=True)
class Batch:
    """A few windows at one block.

    Attributes:
        place: which batch it is, from 0.
        call: how the model calls the block on them.
        pruned: (batch, seq_len, hidden_size) of the model whose earlier blocks are pruned.
        dense: the same of the dense model; None where it does not run beside.
    """

    place: int
    call: BlockCall
    pruned: Tensor
    dense: Tensor | None


@dataclass(frozen=True)
class Streams:
    """The calibration windows on their way through both models.

    Attributes:
        pruned: through the model whose earlier blocks are pruned.
        dense: through the dense one; None where it does not run beside.
    """

    pruned: Stream
    dense: Stream | None

    @property
    def sides(self) -> tuple[Stream, ...]:
        """The streams that run."""
        return (self.pruned,) if self.dense is None else (self.pruned, self.dense)

    def entering(self, block: int) -> Iterator[Batch]:
        """The batches at ``block``."""
        for batch in self.pruned.entering(block):
            dense = None if self.dense is None else self.dense.states(block, batch.place)
            yield Batch(batch.place, batch.call, batch.hidden, dense)

    def first_window(self, block: int) -> Batch:
        """One window at ``block``, of the pruned model: enough to see how the block is wired."""
        window = self.pruned.first_window(block)
        return Batch(window.place, window.call, window.hidden, None)
