"""How long a block and the head of a model take, timed on random tokens."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from llmprune.evaluation.losses import token_losses
from llmprune.models.decoder import Decoder
from llmprune.models.source import vocabulary
from llmprune.models.timing import time_in_turn


@dataclass(frozen=True)
class BlockTimes:
    """Seconds for one window, each the median of several.

    Attributes:
        block: one forward pass of one block.
        head: final norm, head and loss.
    """

    block: float
    head: float

    def through(self, blocks: int) -> float:
        """Through a whole model of so many blocks."""
        return blocks * self.block + self.head


def time_block(decoder: Decoder, block: int, tokens: Tensor) -> BlockTimes:
    """Median seconds of a window in a block, whose weights are there, and in the head."""
    runner = decoder.runner
    with torch.inference_mode():
        hidden, call = runner.embed(tokens), runner.calls(tokens)[block]
        times = time_in_turn(
            [lambda: runner.forward_block(block, hidden, call), lambda: token_losses(runner, hidden, tokens)],
            decoder.device,
        )
    return BlockTimes(*(median(seconds) / len(tokens) for seconds in times))


def random_tokens(decoder: Decoder, windows: int, seq_len: int) -> Tensor:
    """(windows, seq_len) of seeded random tokens, on the device."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary(decoder.model.config), (windows, seq_len), generator=generator).to(decoder.device)
