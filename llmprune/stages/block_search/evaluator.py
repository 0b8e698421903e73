"""What the block search asks of a model and its calibration windows, answered by a ``Decoder``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from llmprune.algorithms.blocks.evaluator import WindowLosses
from llmprune.algorithms.blocks.forks import Tail
from llmprune.algorithms.blocks.search import in_memory
from llmprune.artifacts.files.rows import FileRows
from llmprune.evaluation.losses import token_losses
from llmprune.models.capture import BlockCall
from llmprune.models.decoder import Decoder
from llmprune.models.known_calls import KnownCalls
from llmprune.stages.block_search.healer import CutHealer


def whole_batches(windows: int, most: int, *, batch: int) -> int:
    """How many of ``windows`` are in a chunk of about ``most``: all of them, or whole batches, one at least."""
    return windows if windows <= most else min(windows, max(1, most // batch) * batch)


class WindowEvaluator:
    """A ``BlockEvaluator`` over token windows.

    The windows run in batches that are cut from the first window of a chunk on, and a chunk holds whole batches, but
    for the last one before candidates are compared: so every forward pass is over the same windows whatever the size
    of the chunks, and so are its numbers.

    Args:
        decoder: the model.
        tokens: (num_windows, seq_len) int64.
        batch_size: windows in one forward pass of a block.
        chunk_windows: most windows that go through the model together; None: as many as ``state_bytes`` hold.
        state_bytes: memory for the states of a chunk; those of a single batch that exceed it lie in a file; None: no
            bound.
        scratch: folder for states that exceed ``state_bytes`` though they are of one batch; None: that of temporary
            files.
        healer: gives blocks the weights that they are healed with; None: they have the decoder's own.
        on_forwards: called with the number of windows that a block was run on.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokens: Tensor,
        *,
        batch_size: int,
        chunk_windows: int | None = None,
        state_bytes: int | None = None,
        scratch: Path | None = None,
        healer: CutHealer | None = None,
        on_forwards: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._decoder = decoder
        self._tokens = tokens.to(decoder.device)
        self._batch_size = min(batch_size, chunk_windows or len(tokens))
        self._chunk_windows = chunk_windows
        self._state_bytes, self._scratch = state_bytes, scratch
        self._window_bytes = decoder.runner.embed(self._tokens[:1]).nbytes
        self.healer = healer
        self._on_forwards = on_forwards
        self._calls = KnownCalls(decoder.runner)

    def first_batch(self) -> WindowEvaluator:
        """An evaluator of the windows alone that go through a block together first: enough to time it."""
        tokens = self._tokens[: self._batch_size]
        return WindowEvaluator(self._decoder, tokens, batch_size=len(tokens))

    @property
    def num_blocks(self) -> int:
        """Blocks of the model."""
        return len(self._decoder.blocks)

    @property
    def num_windows(self) -> int:
        """Calibration windows."""
        return len(self._tokens)

    def fitting(self, states: int, windows: int) -> int:
        """See ``BlockEvaluator.fitting``: all that are left, or whole batches."""
        most = self._chunk_windows
        if most is None:
            most = windows if self._state_bytes is None else self._state_bytes // (states * self._window_bytes)
        return whole_batches(windows, most, batch=self._batch_size)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is recorded of how the windows were run."""
        return self._decoder.runner.halving.remarks

    def expect(self, blocks: Sequence[int]) -> None:
        """See ``Decoder.expect``."""
        self._decoder.expect(blocks)

    @property
    def pass_seconds(self) -> float:
        """See ``Decoder.pass_seconds``."""
        return self._decoder.pass_seconds

    def opened(self, block: int) -> AbstractContextManager[None]:
        """See ``Decoder.block``."""
        return self._decoder.block(block)

    def stack(self, entering: Tensor, states: int) -> Tensor:
        """Room for states (states, windows, seq_len, hidden_size): a file where they exceed ``state_bytes``."""
        if self._state_bytes is None or states * entering.nbytes <= self._state_bytes:
            return in_memory(entering, states)
        return cast(Tensor, FileRows(self._scratch, states, entering))

    def entering(self, windows: range) -> Tensor:
        """(windows, seq_len, hidden_size): hidden states entering the first block."""
        self._calls = KnownCalls(self._decoder.runner)  # the last chunk's are of no use any more
        return torch.cat([self._decoder.runner.embed(self._tokens_of(batch)) for batch in self._batches(windows)])

    def apply_block(self, block: int, states: Tensor, windows: range, *, healed: Sequence[Tail] = ()) -> None:
        """Replace ``states`` (n, windows, seq_len, hidden_size; n may be 0) by the block's outputs on them.

        Those of ``healed`` are replaced by the outputs of the block as it is healed for the one behind it.
        """
        with self._decoder.block(block):
            if len(states):
                with nullcontext() if self.healer is None else self.healer.as_it_is(block):
                    self._run(block, states, windows)
            for tail in healed:
                assert self.healer is not None, "somebody healed it"
                with self.healer.without(tail.candidate):
                    self._run(block, tail.states, windows)

    def _run(self, block: int, states: Tensor, windows: range) -> None:
        """Replace ``states`` by the outputs of a block, whose weights are there."""
        if isinstance(states, FileRows):
            self._run_in_file(block, states, windows)
            return
        for batch in self._batches(windows):
            held = slice(batch.start - windows.start, batch.stop - windows.start)
            for rows in states.split(max(1, self._batch_size // len(batch))):
                several = rows[:, held]
                call = self._calls_of(batch, len(several))[block]
                outputs = self._decoder.runner.forward_block(block, several.flatten(0, 1), call)
                several.copy_(outputs.view(several.shape))
                self._on_forwards(len(outputs))

    def _run_in_file(self, block: int, states: FileRows, windows: range) -> None:
        """The same of states in a file, of which as many are in memory as go through the block together."""
        *_, last = self._batches(windows)  # the only one that may have fewer windows than the others
        together = max(1, self._batch_size // len(last))
        for start in range(0, len(states), together):
            some = states.read(start, min(start + together, len(states)))
            self._run(block, some, windows)
            states.write(start, some)

    def losses(self, states: Tensor, windows: range) -> WindowLosses:
        """Losses of ``states`` (n, windows, seq_len, hidden_size) leaving the last block."""
        sums = torch.empty(states.shape[:2], dtype=torch.float64)
        for batch in self._batches(windows):
            held = slice(batch.start - windows.start, batch.stop - windows.start)
            for at, state in enumerate(states):
                found = token_losses(self._decoder.runner, state[held], self._tokens_of(batch))
                sums[at, held] = found.double().sum(dim=1).cpu()
        return WindowLosses(sums, self._tokens.shape[1] - 1)

    def _batches(self, windows: range) -> Iterator[range]:
        for start in range(windows.start, windows.stop, self._batch_size):
            yield range(start, min(start + self._batch_size, windows.stop))

    def _tokens_of(self, windows: range) -> Tensor:
        return self._tokens[windows.start : windows.stop]

    def _calls_of(self, windows: range, states: int) -> list[BlockCall]:
        """The arguments of every block for so many states of some windows, all windows of a state one after another."""
        return self._calls.at((windows, states), self._tokens_of(windows).repeat(states, 1))
