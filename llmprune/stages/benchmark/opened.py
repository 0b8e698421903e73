"""A model that is measured now: whole in memory, or run block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from llmprune.evaluation.perplexity import streamed_window_losses, window_losses
from llmprune.evaluation.streamed_logits import StreamedLogits
from llmprune.models.compute import Compute
from llmprune.models.decoder import Decoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmprune.stages.benchmark.subjects import Subject


@dataclass(frozen=True)
class Loaded:
    """A model in memory.

    Attributes:
        subject: which model it is.
        model: the model in evaluation mode.
        seconds: the time that loading took; None: it was in memory already.
    """

    subject: Subject
    model: PreTrainedModel
    seconds: float | None

    def window_losses(
        self, tokens: Tensor, *, batch_tokens: int, on_windows: Callable[[int], None]
    ) -> tuple[float, ...]:
        """See ``evaluation.perplexity.window_losses``."""
        return window_losses(self.model, tokens, batch_tokens=batch_tokens, on_windows=on_windows)


@dataclass(frozen=True)
class Streamed:
    """A model of which one block at a time is in memory: perplexity and tasks can be measured, and speed cannot.

    Attributes:
        subject: which model it is.
        decoder: lends its blocks.
        compute: tells how much memory is free for hidden states.
        seconds: None: it is never loaded as a whole.
    """

    subject: Subject
    decoder: Decoder
    compute: Compute
    seconds: None = None

    @property
    def model(self) -> PreTrainedModel:
        """The model; its blocks have no weights."""
        return self.decoder.model

    def window_losses(
        self, tokens: Tensor, *, batch_tokens: int, on_windows: Callable[[int], None]
    ) -> tuple[float, ...]:
        """See ``evaluation.perplexity.streamed_window_losses``."""
        states = self.decoder.runner.embed(tokens[:1].to(self.decoder.device)).nbytes
        fitting = max(1, self._state_bytes() // states)
        return streamed_window_losses(
            self.decoder, tokens, batch_tokens=batch_tokens, chunk_windows=fitting, on_windows=on_windows
        )

    def logits(self) -> StreamedLogits:
        """What computes logits in place of the model."""
        return StreamedLogits(self.decoder, state_bytes=self._state_bytes())

    def _state_bytes(self) -> int:
        sizes = list(map(self.decoder.block_bytes, range(len(self.decoder.blocks))))
        return state_bytes(self.compute.free_bytes(), sizes)


def state_bytes(free: int, blocks: Sequence[int]) -> int:
    """Memory for hidden states: half of what two blocks leave, one that computes and one that is read meanwhile.

    Args:
        free: bytes that are free once the model is open.
        blocks: bytes of each.
    """
    return max(0, free - 2 * max(blocks)) // 2
