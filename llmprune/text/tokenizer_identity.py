"""Whether two tokenizers are the same, told by what they do and not by their files."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from llmprune.errors import ModelError
from llmprune.quiet import failures_as, panics_unseen

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "The sea, 1 234.5 m deep:\n\n  it's NAÏVE\tto swim (всегда) 海は広い 🌊 <s></s>.\r\n"


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 in hexadecimal over the vocabulary and the ids that a text of many kinds becomes.

    Chat templates and other settings that move no token make no difference.
    """
    known = [sorted(tokenizer.get_vocab().items()), _probed(tokenizer)]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _probed(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """What the probe becomes, without and with special tokens; nothing where some of it has no token at all."""
    try:
        with failures_as(lambda error: ModelError(str(error))), panics_unseen():
            return [tokenizer(_PROBE, add_special_tokens=own, verbose=False)["input_ids"] for own in (False, True)]
    except ModelError:
        return []
