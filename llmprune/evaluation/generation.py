"""Greedy generation, whatever the model's own generation config asks for.

A checkpoint's ``generation_config.json`` may ask for beams, contrastive search, penalties, stop strings or a static
cache. ``generate`` takes these for every field that its caller leaves empty, and the only neutral value of some
fields (``stop_strings``) is the empty one. So the model's config is set aside while ours is in use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def plain_greedy_config(new_tokens: int, *, use_cache: bool = True) -> GenerationConfig:
    """The likeliest token, exactly ``new_tokens`` times: no token ends a sequence."""
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        use_cache=use_cache,
        min_new_tokens=new_tokens,
        max_new_tokens=new_tokens,
        pad_token_id=0,  # never used: all sequences are of one length
    )


def written_text_config(model: PreTrainedModel, new_tokens: int, *, repetition_penalty: float) -> GenerationConfig:
    """Greedy text for people: at most ``new_tokens``, ended by the tokens that end a text in this model."""
    config = plain_greedy_config(new_tokens)
    config.min_new_tokens = None
    config.eos_token_id = model.generation_config.eos_token_id
    config.repetition_penalty = repetition_penalty
    return config


def generate(
    model: PreTrainedModel,
    prompt: Tensor,
    config: GenerationConfig,
    *,
    criteria: Sequence[StoppingCriteria] = (),
) -> Tensor:
    """Let ``model`` continue every sequence of ``prompt`` under ``config`` and nothing else.

    Args:
        model: in memory, in evaluation mode; its own generation config is the same afterwards.
        prompt: (batch, tokens) int64 without padding, on the model's device.
        config: ``plain_greedy_config`` or ``written_text_config``.
        criteria: called after every new token.

    Returns:
        (batch, new tokens) int64.
    """
    with torch.inference_mode(), own_generation_config(model, config):
        output = type(model).generate(  # type: ignore[attr-defined]
            model,  # of its class: code beside the weights would replace the model's own
            prompt,
            generation_config=config,
            attention_mask=torch.ones_like(prompt),
            stopping_criteria=StoppingCriteriaList(criteria),
        )
    assert isinstance(output, Tensor)
    return output[:, prompt.shape[1] :]


@contextmanager
def own_generation_config(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Set a model's generation config aside, and ``config`` in its place."""
    before = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = before
