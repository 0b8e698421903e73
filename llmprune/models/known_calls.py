"""How a model calls its blocks, kept from one pass over the same batches to the next."""

from __future__ import annotations

from collections.abc import Hashable

from torch import Tensor

from llmprune.models.capture import BlockCall, BlockRunner, tensor_bytes


class KnownCalls:
    """How a model calls its blocks on each batch of a pass, which sees the same batches at every block.

    For all batches that could take more memory than the hidden states: a mask has seq_len x seq_len entries. What goes
    beyond the limit is computed anew each time.

    Args:
        runner: of the model.
        limit: bytes of what is kept.
    """

    def __init__(self, runner: BlockRunner, *, limit: int = 32 * 2**20) -> None:
        self._runner = runner
        self._left = limit
        self._known: dict[Hashable, list[BlockCall]] = {}

    def at(self, place: Hashable, tokens: Tensor) -> list[BlockCall]:
        """The calls of all blocks.

        Args:
            place: which batch it is.
            tokens: (batch, seq_len) of it, the same each time.
        """
        known = self._known.get(place)
        if known is not None:
            return known
        calls = self._runner.calls(tokens)
        if (size := tensor_bytes(calls)) <= self._left:
            self._left -= size
            self._known[place] = calls
        return calls
