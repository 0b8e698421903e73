"""A pruned model as a draft for its dense model: transformers' assisted generation, as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import GenerationConfig

from llmprune.errors import ModelError
from llmprune.evaluation.generation import own_generation_config, plain_greedy_config
from llmprune.models.timing import now

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class AssistedText:
    """One text, written with a draft.

    Attributes:
        tokens: (1, new tokens) int64 on the CPU.
        seconds: that it took.
        proposed: tokens that the draft proposed.
        accepted: how many of them were taken.
    """

    tokens: Tensor
    seconds: float
    proposed: int
    accepted: int


def write_with_draft(
    model: PreTrainedModel, prompt: Tensor, *, new_tokens: int, draft: PreTrainedModel | None
) -> AssistedText:
    """Let a model write greedily, alone or with a draft. No token ends a text.

    Both models' own generation configs are set aside. Every pass of the model adds one token of its own to those of
    the draft that it takes, so the number of passes tells how many were taken.

    Args:
        model: in memory, in evaluation mode.
        prompt: (1, tokens) int64 on the model's device.
        new_tokens: to write.
        draft: a model of the same vocabulary; None: the model alone.

    Raises:
        ModelError: transformers cannot use the two together.
    """
    assisted = {} if draft is None else {"assistant_model": draft}
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(own_generation_config(model, plain_greedy_config(new_tokens)))
        passes = stack.enter_context(_counted(model))
        proposals: list[int] = []
        if draft is not None:
            stack.enter_context(own_generation_config(draft, GenerationConfig()))
            proposals = stack.enter_context(_counted(draft))
        began = now(model.device)
        try:
            output = model.generate(  # type: ignore[operator]
                prompt, generation_config=model.generation_config, attention_mask=torch.ones_like(prompt), **assisted
            )
        except (ValueError, NotImplementedError) as error:
            if draft is None:
                raise
            raise ModelError(
                f"transformers cannot use a {draft.config.model_type} model as a draft: {error!s:.200}; leave out "
                "`draft`."
            ) from error
        seconds = now(model.device) - began
    accepted = new_tokens - len(passes) if draft is not None else 0
    return AssistedText(output[:, prompt.shape[1] :].cpu(), seconds, len(proposals), accepted)


@contextmanager
def _counted(model: PreTrainedModel) -> Iterator[list[int]]:
    """A list that grows by one with every forward pass."""
    passes: list[int] = []
    hook = model.register_forward_hook(lambda *_: passes.append(1))
    try:
        yield passes
    finally:
        hook.remove()
