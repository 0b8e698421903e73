"""Logits of many batches from a model whose blocks are not all in memory: each block is opened once for all of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from llmprune.evaluation.perplexity import leaving_states
from llmprune.models.decoder import Decoder


class StreamedLogits:
    """Stands in for a model where somebody else decides which batches it is asked, always in the same order.

    All batches are asked twice. The first time they are noted. The second time they run through the blocks together,
    as many as memory holds, and the answers are those of the whole model.

    Args:
        decoder: lends its blocks.
        state_bytes: memory for hidden states.
    """

    def __init__(self, decoder: Decoder, *, state_bytes: int) -> None:
        self._decoder, self._state_bytes = decoder, state_bytes
        self._noted: deque[Tensor] = deque()
        self._ready: deque[Tensor] = deque()
        self._vocabulary = int(decoder.model.config.get_text_config(decoder=True).vocab_size)

    def note(self, tokens: Tensor) -> Tensor:
        """Take a batch (batch, seq_len) int64; what comes back has the shape of logits and is nothing but zeros."""
        self._noted.append(tokens)
        return torch.zeros(*tokens.shape, self._vocabulary, device=tokens.device)

    def answer(self, tokens: Tensor) -> Tensor:
        """Logits (batch, seq_len, vocab_size) of the next noted batch, which these tokens are."""
        if not self._ready:
            decoder = self._decoder
            self._ready.extend(leaving_states(decoder.runner, decoder.block, list(self._fitting())))
        states = self._ready.popleft()
        assert states.shape[:2] == tokens.shape, "batches come in the order in which they were noted"
        return self._decoder.runner.logits(states)

    def _fitting(self) -> Iterator[Tensor]:
        """The next batches whose states fit in memory together; one at least."""
        taken = 0
        width = self._decoder.runner.embed(self._noted[0][:1, :1]).nbytes
        while self._noted and (taken == 0 or taken + self._noted[0].numel() * width <= self._state_bytes):
            taken += self._noted[0].numel() * width
            yield self._noted.popleft()
