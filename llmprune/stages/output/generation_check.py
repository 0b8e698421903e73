"""Greedy generation with and without the KV cache, of a written checkpoint and of its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmprune.errors import VerificationError
from llmprune.evaluation.generation import generate, plain_greedy_config
from llmprune.quiet import first_sentence

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NEW_TOKENS = 16
# The same operations run on the same weights, so the logits should be equal; what is
# allowed is what another order of summation may change, relative to the largest logit.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}


@dataclass(frozen=True)
class Generated:
    """What a model generates with and without its KV cache.

    Attributes:
        same: how many tokens were alike.
        difference: the largest one of the logits before each of them, and before the first that was not alike.
        fault: why both do not count as the same, in words that go on after the model's name; None: they do.
    """

    same: int
    difference: float
    fault: str | None = None


def compare_generation(model: PreTrainedModel, prompt: Tensor) -> Generated:
    """Generate greedily with and without the KV cache.

    Where the two differ, the first different token decides: if the model all but ties
    between both, rounding may choose either, and nothing is wrong.
    """
    runs = []
    for use_cache in (True, False):
        try:
            runs.append(_generate(model, prompt, use_cache=use_cache))
        except Exception as error:  # whatever a model's own code makes of a cache, or of none
            how = "with" if use_cache else "without"
            fault = f"cannot generate {how} the KV cache (transformers: {first_sentence(error)})"
            return Generated(0, float("inf"), fault)
    (cached, cached_logits), (plain, plain_logits) = runs
    same = int((cached == plain).int().cumprod(0).sum())
    compared = slice(same + 1)
    difference = float((cached_logits[compared] - plain_logits[compared]).abs().max())
    if same == len(plain):
        return Generated(same, difference)
    logits = plain_logits[same]
    gap = float((logits[cached[same]] - logits[plain[same]]).abs())
    if gap <= allowed_difference(model.dtype, logits):
        return Generated(same, difference)
    fault = f"generates other text with the KV cache than without (from token {same}, gap {gap:.3g})"
    return Generated(same, difference, fault)


def _generate(model: PreTrainedModel, prompt: Tensor, *, use_cache: bool) -> tuple[Tensor, Tensor]:
    """Greedily generated tokens (new), and the logits (new, vocab_size) in float32 that chose them."""
    logits: list[Tensor] = []
    hook = model.register_forward_hook(lambda _model, _inputs, output: logits.append(output.logits[0, -1].float()))
    try:
        tokens = generate(model, prompt, plain_greedy_config(_NEW_TOKENS, use_cache=use_cache))
    finally:
        hook.remove()
    return tokens[0], torch.stack(logits)


def same_in_source(source: PreTrainedModel, prompt: Tensor, check: Generated) -> str:
    """A remark where the source's logits, too, depend on the cache by more than rounding.

    Raises:
        VerificationError: the written checkpoint's alone do.
    """
    theirs = compare_generation(source, prompt)
    with torch.inference_mode():
        rounding = allowed_difference(source.dtype, source(input_ids=prompt, use_cache=False).logits.float())
    if theirs.difference <= rounding:
        raise VerificationError(f"The written checkpoint {check.fault}, and the source does not.")
    own = theirs.fault or f"gives other logits with the KV cache than without (by {theirs.difference:.3g})"
    return f"The source itself {own}; the written checkpoint {check.fault}."


def allowed_difference(dtype: torch.dtype, logits: Tensor) -> float:
    """How far logits may be apart for another order of summation."""
    return _TOLERANCE[dtype] * max(1.0, float(logits.abs().max()))
