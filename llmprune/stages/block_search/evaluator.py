"""What the block search asks of a model and its calibration windows, answered by a ``Decoder``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from llmprune.algorithms.blocks.search import WindowLosses
from llmprune.evaluation.losses import token_losses
from llmprune.models.capture import BlockCall
from llmprune.models.decoder import Decoder


class WindowEvaluator:
    """A ``BlockEvaluator`` over token windows.

    Args:
        decoder: the model.
        tokens: (num_windows, seq_len) int64.
        chunk_windows: most windows that go through the model together.
        looks: after how many windows a chunk ends whatever its size, so that what is decided there does not depend
            on the memory of the machine.
        batch_size: windows in one forward pass of a block.
        on_forwards: called with the number of windows that a block was run on.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokens: Tensor,
        *,
        chunk_windows: int,
        batch_size: int,
        looks: Sequence[int] = (),
        on_forwards: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._decoder = decoder
        parts = tokens.to(decoder.device).tensor_split(list(looks))
        self._chunks = [chunk for part in parts for chunk in part.split(chunk_windows)]
        self._batch_size = batch_size
        self._on_forwards = on_forwards
        self._calls: dict[tuple[int, int, int], list[BlockCall]] = {}

    def first_batch(self) -> WindowEvaluator:
        """An evaluator of the windows alone that go through a block together first: enough to time it."""
        tokens = self._chunks[0][: self._batch_size]
        return WindowEvaluator(self._decoder, tokens, chunk_windows=len(tokens), batch_size=len(tokens))

    @property
    def num_blocks(self) -> int:
        """Blocks of the model."""
        return len(self._decoder.blocks)

    @property
    def num_chunks(self) -> int:
        """Chunks that the windows are cut into."""
        return len(self._chunks)

    @property
    def num_windows(self) -> int:
        """Windows of all chunks."""
        return sum(map(len, self._chunks))

    def windows_in(self, chunk: int) -> int:
        """How many windows a chunk holds."""
        return len(self._chunks[chunk])

    def entering(self, chunk: int) -> Tensor:
        """(windows, seq_len, hidden_size): hidden states entering the first block."""
        return self._decoder.runner.embed(self._chunks[chunk])

    def apply_block(self, block: int, states: Tensor, chunk: int) -> None:
        """Replace ``states`` (n, windows, seq_len, hidden_size) by the block's outputs on them."""
        rows = states.view(-1, *states.shape[2:])  # a view, never a copy: what is written here is the answer
        with self._decoder.block(block):
            for start in range(0, len(rows), self._batch_size):
                batch = rows[start : start + self._batch_size]
                call = self._calls_of(chunk, start, len(batch))[block]
                batch.copy_(self._decoder.runner.forward_block(block, batch, call))
                self._on_forwards(len(batch))

    def losses(self, states: Tensor, chunk: int) -> WindowLosses:
        """Losses of ``states`` (n, windows, seq_len, hidden_size) leaving the last block."""
        tokens = self._chunks[chunk]
        sums = torch.stack([token_losses(self._decoder.runner, state, tokens).double().sum(dim=1) for state in states])
        return WindowLosses(sums.cpu(), tokens.shape[1] - 1)

    def _calls_of(self, chunk: int, start: int, rows: int) -> list[BlockCall]:
        """The arguments of every block for a batch: row i of the stacked states holds window i mod windows."""
        windows = self.windows_in(chunk)
        key = (chunk, start % windows, rows)
        if key not in self._calls:
            self._calls = {known: calls for known, calls in self._calls.items() if known[0] == chunk}
            tiled = self._chunks[chunk][(torch.arange(rows, device=self._decoder.device) + start) % windows]
            self._calls[key] = self._decoder.runner.calls(tiled)
        return self._calls[key]
