"""Calibration windows that the model writes itself: no data needed, and no data set's licence or bias.

Self-generated calibration text: Williams, Chrysostomou & Aletras, "Self-calibration for Language Model
Quantization and Pruning" (NAACL 2025). Here: plain ancestral sampling at temperature 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmprune.choices import SAMPLES, SEQ_LEN, TextKind
from llmprune.errors import ModelError, NumericalError, TargetError
from llmprune.text.windows import TokenWindows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def sample_self_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_windows: int = SAMPLES,
    seq_len: int = SEQ_LEN,
    seed: int = 0,
    batch_size: int = 8,
    on_window: Callable[[int], None] | None = None,
) -> TokenWindows:
    """Let the model write windows, each from BOS on, or from a random ordinary token where there is no BOS.

    A loop of its own rather than `model.generate`, which draws from torch's global generator, applies the
    top-k, top-p and penalties of the model's generation config, and stops at EOS. Here EOS is a token like
    others: the model goes on to another document, as in its training data.

    Args:
        model: on any device; called with its key-value cache, without gradients, in evaluation mode.
        tokenizer: for BOS and the special tokens.
        num_windows: windows to write.
        seq_len: tokens a window, first token included.
        seed: decides the text, with batch_size and the model's arithmetic (devices may differ).
        batch_size: windows written at a time.
        on_window: called with the number of windows finished so far, for progress.

    Raises:
        TargetError: `num_windows` or `batch_size` < 1, or `seq_len` < 2.
        ModelError: the model has no embedding for the tokenizer's BOS.
        NumericalError: the model's logits are not finite.
    """
    if num_windows < 1 or batch_size < 1 or seq_len < 2:
        raise TargetError(
            f"{num_windows} windows of {seq_len} tokens, {batch_size} at a time: needs at least 1, 2 and 1."
        )
    generator = torch.Generator().manual_seed(seed)
    vocabulary = int(model.config.get_text_config(decoder=True).vocab_size)
    first = _first_tokens(tokenizer, num_windows, generator, vocabulary=vocabulary)
    batches = []
    for start in torch.split(first, batch_size):
        batches.append(_write(model, start, seq_len, generator))
        if on_window is not None:
            on_window(sum(len(batch) for batch in batches))
    origin = f"written by the model at temperature 1, seed {seed}, {batch_size} windows at a time"
    return _as_windows(torch.cat(batches), origin, bos=tokenizer.bos_token_id is not None, seed=seed)


def _as_windows(tokens: Tensor, origin: str, *, bos: bool, seed: int) -> TokenWindows:
    return TokenWindows(
        tokens=tokens,
        bos=bos,
        sampling="self",
        seed=seed,
        text_tokens=tokens.numel(),
        corpus_name="self",
        corpus_origin=origin,
        corpus_fingerprint=hashlib.sha256(tokens.numpy().astype("<i8").tobytes()).hexdigest(),
        kind=TextKind.SELF,
    )


def _first_tokens(
    tokenizer: PreTrainedTokenizerBase, count: int, generator: torch.Generator, *, vocabulary: int
) -> Tensor:
    """(count, 1), int64, of tokens that the model has embeddings for."""
    bos = tokenizer.bos_token_id
    if bos is not None and bos >= vocabulary:
        raise ModelError(
            f"The tokenizer's BOS is token {bos}, and the model has embeddings for {vocabulary:,} tokens, 0 to "
            f"{vocabulary - 1}; put the tokenizer that belongs to this model beside its weights."
        )
    if bos is not None:
        return torch.full((count, 1), bos)
    ordinary = torch.tensor(sorted(set(range(min(len(tokenizer), vocabulary))) - set(tokenizer.all_special_ids)))
    return ordinary[torch.randint(0, len(ordinary), (count, 1), generator=generator)]


@torch.no_grad()
def _write(model: PreTrainedModel, start: Tensor, seq_len: int, generator: torch.Generator) -> Tensor:
    """Continue (batch, 1) to (batch, seq_len)."""
    was_training = model.training
    model.train(mode=False)
    written, cache = [start], None
    for _ in range(seq_len - 1):
        output = model(input_ids=written[-1].to(model.device), past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        # Drawn on the CPU: its generator gives the same stream on every machine.
        weights = output.logits[:, -1].float().softmax(dim=-1).cpu()
        if not weights.isfinite().all():
            raise NumericalError("The model's logits are not finite while it writes calibration text.")
        written.append(torch.multinomial(weights, 1, generator=generator))
    model.train(was_training)
    return torch.cat(written, dim=1)
