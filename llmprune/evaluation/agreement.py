"""Whether a pruned model still chooses the tokens that its dense model writes.

The dense model writes greedily behind prompts. The pruned one reads prompts and text in a single pass, and each of its
choices is compared. Up to the first that differs, that is the text that it would write by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmprune.evaluation.generation import generate, plain_greedy_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def write_greedily(
    model: PreTrainedModel, prompts: Tensor, *, new_tokens: int, batch_size: int, on_prompts: Callable[[int], None]
) -> Tensor:
    """Prompts, and what a model writes behind them: always the likeliest token, and none ends a text.

    Args:
        model: in memory, in evaluation mode.
        prompts: (prompts, tokens) int64.
        new_tokens: for each.
        batch_size: prompts at a time.
        on_prompts: called with the number of prompts done.

    Returns:
        (prompts, tokens + new_tokens) int64 on the CPU.
    """
    config, written = plain_greedy_config(new_tokens), []
    for batch in prompts.split(batch_size):
        placed = batch.to(model.device)
        written.append(torch.cat([placed, generate(model, placed, config)], dim=1).cpu())
        on_prompts(len(batch))
    return torch.cat(written)


@torch.inference_mode()
def same_choices(
    model: PreTrainedModel, texts: Tensor, *, prompt_tokens: int, batch_size: int, on_prompts: Callable[[int], None]
) -> Tensor:
    """Where a model's likeliest token is the one that stands in a text, given all before it.

    Args:
        model: in memory, in evaluation mode.
        texts: (prompts, tokens) int64, as ``write_greedily`` gives them.
        prompt_tokens: tokens at the beginning that nobody chose.
        batch_size: texts in one forward pass.
        on_prompts: called with the number of texts done.

    Returns:
        (prompts, tokens - prompt_tokens) bool on the CPU.
    """
    same = []
    for batch in texts.split(batch_size):
        placed = batch.to(model.device)
        logits = model(input_ids=placed, use_cache=False).logits[:, prompt_tokens - 1 : -1]
        same.append((logits.argmax(dim=-1) == placed[:, prompt_tokens:]).cpu())
        on_prompts(len(batch))
    return torch.cat(same)


def agreed_lengths(same: Tensor) -> Tensor:
    """How many choices are the same before the first that is not, (prompts,) int64; of (prompts, tokens) bool."""
    return same.long().cumprod(dim=1).sum(dim=1)
