"""Hidden states entering a block, from file to file: those of the pruned model and, for comparison, of the dense model.

The two models see the same windows. The pruned stream shows each block the errors of the blocks before it. The dense
stream is what a block should give in spite of them. With it as reference (``--targets-from dense``, and refit) SmolLM2
at 70% zeros has a perplexity of 53.0 on WikiText-2; SparseLLM as in its paper, on the pruned stream alone, has 99.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
        dense: the same of the dense model, where it was asked for.
    """

    place: int
    call: BlockCall
    pruned: Tensor
    dense: Tensor | None = None


@dataclass(frozen=True)
class Streams:
    """The calibration windows on their way through both models.

    Attributes:
        pruned: through the model whose earlier blocks are pruned.
        dense: through the dense one; None where it does not run beside.
        first: the first block that is pruned. Up to it both models are one, and only ``pruned`` has files.
    """

    pruned: Stream
    dense: Stream | None
    first: int

    def find(self, files: Iterable[str]) -> None:
        """Read from these files of the folder from now on, and from those that are written."""
        for stream in (self.pruned, self.dense):
            if stream is not None:
                stream.find(files)

    def sides(self, block: int) -> tuple[Stream, ...]:
        """The streams that have states of their own at ``block``."""
        return (self.pruned,) if self.dense is None or block <= self.first else (self.pruned, self.dense)

    def dense_at(self, block: int) -> Stream:
        """The stream with the dense model's states at ``block``."""
        assert self.dense is not None, "no dense model runs beside"
        return self.pruned if block <= self.first else self.dense

    def entering(self, block: int, *, dense: bool = False) -> Iterator[Batch]:
        """The batches at ``block``; those of the dense model are read only where they are asked for."""
        for batch in self.pruned.entering(block):
            beside = self.dense_at(block).states(block, batch.place) if dense else None
            yield Batch(batch.place, batch.call, batch.hidden, beside)

    def first_window(self, block: int, *, length: int | None = None) -> Batch:
        """One window at ``block`` of the pruned model, or its first ``length`` tokens."""
        window = self.pruned.first_window(block, length=length)
        return Batch(window.place, window.call, window.hidden)
