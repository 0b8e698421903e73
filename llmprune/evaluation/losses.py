"""Token losses from the hidden states leaving the last block, a slice of positions at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from llmprune.models.capture import BlockRunner

# Logits in float32 are the largest tensors of a small model by far (a window of 2048
# tokens of a 150k vocabulary: 1.2 GB), so they exist for a slice of positions only.
LOGITS_BYTES = 64 * 2**20
# On Linux a tensor beyond 32 MiB is given back to the system when it is freed, and what the
# next one costs, page by page, was a tenth of the head's time in float32.
_LOGITS_BYTES_CPU = 24 * 2**20
# The softmax goes over its logits several times, and does so in a core's own cache when
# they are few: a quarter to a third of the head's time on the CPU in bfloat16.
_SOFTMAX_BYTES = 2 * 2**20


def token_losses(runner: BlockRunner, hidden: Tensor, tokens: Tensor) -> Tensor:
    """Negative log-likelihood of every token but the first of each window.

    Args:
        runner: the model's head.
        hidden: (windows, seq_len, hidden_size), leaving the last block.
        tokens: (windows, seq_len) int64.

    Returns:
        (windows, seq_len - 1) float32, in nats, from logits in float32.
    """
    states = hidden[:, :-1].reshape(1, -1, hidden.shape[-1])
    targets = tokens[:, 1:].reshape(-1)
    losses = torch.empty(targets.shape, dtype=torch.float32, device=hidden.device)
    # A slice is never longer than a window: the model may have no more positions than that, and
    # it makes masks of the square of a slice. The first one is small: it tells the size of the vocabulary.
    longest = tokens.shape[1]
    allowed = min(LOGITS_BYTES, _LOGITS_BYTES_CPU) if hidden.device.type == "cpu" else LOGITS_BYTES
    start, positions = 0, min(16, longest)
    while start < len(targets):
        part = slice(start, start + positions)
        logits = runner.logits(states[:, part])[0]
        losses[part] = _cross_entropy(logits, targets[part])
        start += positions
        positions = min(max(16, allowed // (4 * logits.shape[-1])), longest)
    return losses.view(len(tokens), -1)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Losses (positions,) of logits (positions, vocab_size) of any float dtype, in float32."""
    if logits.device.type != "cpu":
        return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    rows = max(1, _SOFTMAX_BYTES // (4 * logits.shape[-1]))
    pieces = zip(logits.split(rows), targets.split(rows), strict=True)
    return torch.cat(
        [torch.nn.functional.cross_entropy(piece.float(), wanted, reduction="none") for piece, wanted in pieces]
    )
