"""Perplexity: non-overlapping windows of one text, exp of the mean token loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmprune.evaluation.losses import token_losses
from llmprune.models.anatomy import find_blocks
from llmprune.models.capture import BlockRunner

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def window_losses(
    model: PreTrainedModel,
    tokens: Tensor,
    *,
    batch_tokens: int,
    on_windows: Callable[[int], None] = lambda _: None,
) -> tuple[float, ...]:
    """Mean loss of every token window, in nats/token; every window predicts as many tokens.

    The model's own blocks and head are run, logits in float32 and a slice of positions
    at a time, losses averaged in float64.

    Args:
        model: in memory, in eval mode.
        tokens: (num_windows, seq_len) int64.
        batch_tokens: tokens in one forward pass.
        on_windows: called with the number of windows done.
    """
    _, blocks = find_blocks(model, model.config)
    runner = BlockRunner(model, blocks)
    runner.learn_returned(tokens[:1, :2].to(model.device))
    losses: list[float] = []
    for batch in tokens.split(max(1, batch_tokens // tokens.shape[1])):
        on_device = batch.to(model.device)
        hidden = runner.embed(on_device)
        for block, call in enumerate(runner.calls(on_device)):
            hidden = runner.forward_block(block, hidden, call)
        with torch.inference_mode():
            losses += token_losses(runner, hidden, on_device).double().mean(dim=1).tolist()
        on_windows(len(batch))
    return tuple(losses)
