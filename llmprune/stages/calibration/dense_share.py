"""One rank's part in the pass over the dense model: its windows, from file to file, through one block after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from llmprune.algorithms.blocks.scores import cosine_similarity_sum
from llmprune.artifacts.activations import HiddenStatesWriter, hidden_name
from llmprune.artifacts.hidden_parts import open_hidden_parts
from llmprune.artifacts.records.provenance import FileRecord
from llmprune.evaluation.losses import token_losses
from llmprune.models.decoder import Decoder
from llmprune.models.known_calls import KnownCalls
from llmprune.models.open_block import OpenBlock
from llmprune.ranks.group import Ranks


@dataclass(frozen=True)
class Written:
    """What a rank has written of the states entering a block.

    Attributes:
        name: of its file.
        file: the file.
        last: states of each window's last token (windows, hidden_size), float32.
        sums: over tokens, of what the block before did, see ``_measure``; zeros of the embedding.
    """

    name: str
    file: FileRecord
    last: Tensor
    sums: Tensor


@dataclass(frozen=True)
class PassShare:
    """One rank's part in a pass.

    Attributes:
        decoder: the model.
        tokens: the calibration windows of all ranks (num_windows, seq_len) int64.
        folder: where the pass keeps its files.
        batch: windows that go through a block at once.
        ranks: this rank among the others.
    """

    decoder: Decoder
    tokens: Tensor
    folder: Path
    batch: int
    ranks: Ranks

    @cached_property
    def _calls(self) -> KnownCalls:
        return KnownCalls(self.decoder.runner)

    @property
    def windows(self) -> range:
        """Those of this rank."""
        return self.ranks.share(range(len(self.tokens)))

    def embed(self) -> Written:
        """Write the states entering the first block."""
        return self._write(0, ((self.decoder.runner.embed(batch), torch.zeros(3)) for _, batch in self.batches()))

    def run_block(
        self, block: int, entering: Mapping[str, range], advance: Callable[[int], None] = lambda _: None
    ) -> Written:
        """Run a block, from file to file, and measure it.

        Args:
            block: it.
            entering: files of the states entering it, whoever wrote them.
            advance: told how many windows are done.

        Raises:
            NumericalError: it gives NaN or infinity.
        """
        runner = self.decoder.runner

        def outputs() -> Iterator[tuple[Tensor, Tensor]]:
            with open_hidden_parts(self.folder, entering) as states:
                for place, (rows, batch) in enumerate(self.batches()):
                    before = states.windows(rows.start, rows.stop).to(self.decoder.device)
                    call = self._calls.at(place, batch)[block]
                    after = runner.forward_block(block, before, call)
                    # Looked at here, while the block is still loaded: only then can the matrix be named.
                    if not bool(torch.isfinite(after).all()):
                        raise OpenBlock(self.decoder, block).not_finite(before, call)
                    yield after, _measure(before, after)
                    advance(len(batch))

        with self.decoder.block(block):
            return self._write(block + 1, outputs())

    def losses(self, leaving: Mapping[str, range], advance: Callable[[int], None] = lambda _: None) -> list[float]:
        """Mean loss of each of this rank's windows, in nats/token.

        Args:
            leaving: files of the states leaving the last block.
            advance: told how many windows are done.
        """
        losses: list[float] = []
        with open_hidden_parts(self.folder, leaving) as states:
            for rows, batch in self.batches():
                hidden = states.windows(rows.start, rows.stop).to(self.decoder.device)
                losses += token_losses(self.decoder.runner, hidden, batch).double().mean(dim=1).tolist()
                advance(len(batch))
        return losses

    def remarks(self) -> tuple[str, ...]:
        """What the artifact says of how this rank ran its windows."""
        return self.decoder.runner.halving.remarks

    def batches(self) -> Iterator[tuple[range, Tensor]]:
        """This rank's windows in batches that keep the device busy: which they are, and their tokens on the device."""
        for start in range(0, len(self.windows), self.batch):
            rows = self.windows[start : start + self.batch]
            yield rows, self.tokens[rows.start : rows.stop].to(self.decoder.device)

    def _write(self, block: int, batches: Iterator[tuple[Tensor, Tensor]]) -> Written:
        """Write the states entering ``block``, which come with sums over their tokens."""
        path = self.folder / hidden_name(block, self.windows if self.ranks.size > 1 else None)
        writer: HiddenStatesWriter | None = None
        last: list[Tensor] = []
        sums = torch.zeros(3, dtype=torch.float64)
        try:
            for states, measured in batches:
                if writer is None:
                    shape = (len(self.windows), self.tokens.shape[1], states.shape[-1])
                    writer = HiddenStatesWriter(path, shape=shape, dtype=self.decoder.runner.stream_dtype)
                writer.append(states)
                last.append(states[:, -1].float().cpu().clone())
                sums += measured
            assert writer is not None, "there is at least one window"
            return Written(path.name, writer.finish(), torch.cat(last), sums)
        finally:
            if writer is not None:
                writer.discard()


def _measure(before: Tensor, after: Tensor) -> Tensor:
    """Sums over tokens: cosine similarity of input and output, norm of the input, norm of the update."""
    return torch.tensor(
        [
            cosine_similarity_sum(before, after),
            float(before.float().norm(dim=-1).double().sum()),
            float((after.float() - before.float()).norm(dim=-1).double().sum()),
        ],
        dtype=torch.float64,
    )
