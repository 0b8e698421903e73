"""Perplexity: non-overlapping windows of one text, exp of the mean token loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmprune.evaluation.losses import token_losses
from llmprune.models.anatomy import find_blocks
from llmprune.models.capture import BlockRunner
from llmprune.models.decoder import Decoder

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
    batch = _batch(tokens, batch_tokens)
    return tuple(
        loss
        for chunk in tokens.to(model.device).split(batch)
        for loss in _chunk_losses(runner, lambda _: nullcontext(), chunk, batch, on_windows)
    )


def streamed_window_losses(
    decoder: Decoder,
    tokens: Tensor,
    *,
    batch_tokens: int,
    chunk_windows: int,
    on_windows: Callable[[int], None] = lambda _: None,
) -> tuple[float, ...]:
    """The same of a model whose blocks are not all in memory; each is read once for every chunk of windows.

    The numbers are those of ``window_losses``.

    Args:
        decoder: lends its blocks one by one.
        tokens: (num_windows, seq_len) int64.
        batch_tokens: tokens in one forward pass.
        chunk_windows: windows whose hidden states are in memory together.
        on_windows: called with the number of windows done.
    """
    batch = _batch(tokens, batch_tokens)
    chunk_windows = max(1, chunk_windows // batch) * batch  # whole batches, so that the sums are the same
    return tuple(
        loss
        for chunk in tokens.to(decoder.device).split(chunk_windows)
        for loss in _chunk_losses(decoder.runner, decoder.block, chunk, batch, on_windows)
    )


def leaving_states(
    runner: BlockRunner, opened: Callable[[int], AbstractContextManager[None]], batches: Sequence[Tensor]
) -> list[Tensor]:
    """Hidden states leaving the last block, each block opened once.

    Args:
        runner: runs the blocks.
        opened: lends a block its weights.
        batches: of tokens (batch, seq_len) int64, each of any shape.

    Returns:
        (batch, seq_len, hidden_size) for every batch.
    """
    hidden, calls = [runner.embed(tokens) for tokens in batches], [runner.calls(tokens) for tokens in batches]
    for block in range(len(calls[0])):
        with opened(block):
            for place, call in enumerate(calls):
                hidden[place] = runner.forward_block(block, hidden[place], call[block])
    return hidden


def _batch(tokens: Tensor, batch_tokens: int) -> int:
    """Windows in one forward pass."""
    return max(1, batch_tokens // tokens.shape[1])


def _chunk_losses(
    runner: BlockRunner,
    opened: Callable[[int], AbstractContextManager[None]],
    chunk: Tensor,
    batch: int,
    on_windows: Callable[[int], None],
) -> list[float]:
    """Losses of a chunk of windows, which goes through block after block, each opened once."""
    batches = chunk.split(batch)
    losses: list[float] = []
    for tokens, states in zip(batches, leaving_states(runner, opened, batches), strict=True):
        with torch.inference_mode():
            losses += token_losses(runner, states, tokens).double().mean(dim=1).tolist()
        on_windows(len(tokens))
    return losses
