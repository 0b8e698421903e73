"""Which class a checkpoint is of, as transformers chooses it, and a model of that class without weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)
from transformers.utils.generic import ContextManagers

from llmprune.errors import ModelError
from llmprune.models.config import own_code_refused
from llmprune.quiet import first_sentence, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_MAX_PARTS = 500_000  # a decoder of 60 blocks with 384 experts of three matrices each has 140,000
# In the order in which they are tried. The language model of the later ones is wrapped.
_KINDS: tuple[tuple[Any, Any], ...] = (
    (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING),
    (AutoModelForImageTextToText, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING),
    (AutoModelForMultimodalLM, MODEL_FOR_MULTIMODAL_LM_MAPPING),
)


def auto_class(config: PreTrainedConfig) -> Any:
    """The class of transformers whose ``from_pretrained`` loads a checkpoint of this config as what the config names.

    ``AutoModelForCausalLM``, the like for a model that has other inputs than text, too, or the very class that is
    named, where no auto class knows it (the language model of Mllama on its own).

    Raises:
        ModelError: there is none that writes text.
    """
    named = set(getattr(config, "architectures", None) or ())
    remote = getattr(config, "auto_map", None) or {}
    local = [(kind, mapping[type(config)]) for kind, mapping in _KINDS if type(config) in mapping]
    chosen = [kind for kind, model in local if model.__name__ in named]
    chosen += [kind for kind, _ in _KINDS if kind.__name__ in remote]
    chosen += [kind for kind, _ in local]
    chosen += [known for name in named if _is_made_of(known := getattr(transformers, str(name), None), config)]
    if not chosen:
        raise ModelError(
            f"transformers knows no language model of type '{config.model_type}'; a causal language model was expected."
        )
    return chosen[0]


def auto_class_name(model_type: str) -> str:
    """Name of the auto class with which a user of transformers loads a checkpoint of a type."""
    if model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return AutoModelForImageTextToText.__name__
    wrapped = model_type in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    return (AutoModelForMultimodalLM if wrapped else AutoModelForCausalLM).__name__


def attention_of(config: PreTrainedConfig) -> dict[str, str]:
    """How attention must be computed for a text to be read from left to right, as an option of ``from_pretrained``.

    PaliGemma lets an image and its prompt see themselves whole, and so says that attention is not causal. Of a text
    alone it makes a causal mask, which SDPA leaves out where it relies on that word.
    """
    both_ways = getattr(config.get_text_config(decoder=True), "use_bidirectional_attention", None) is True
    return {"attn_implementation": "eager"} if both_ways else {}


def empty_model(
    config: PreTrainedConfig, *, dtype: torch.dtype, trust_remote_code: bool = False, kind: Any = None
) -> PreTrainedModel:
    """The model of a config as ``from_pretrained`` makes it, before it has weights: all on the meta device.

    Args:
        config: as it is loaded; the model has a copy.
        dtype: of its parameters.
        trust_remote_code: let the checkpoint's own Python files run.
        kind: the class to make; None: the one that the config names.

    Raises:
        ModelError: the config is not one of a language model.
    """
    kind = kind or auto_class(config)
    loading = PreTrainedModel.get_init_context(dtype, False, False, None)
    try:
        with _parts_counted(), ContextManagers(loading), quiet():
            if issubclass(kind, PreTrainedModel):
                model = kind._from_config(deepcopy(config), dtype=dtype, **attention_of(config))
            else:
                options = {"trust_remote_code": trust_remote_code, **attention_of(config)}
                model = kind.from_config(deepcopy(config), dtype=dtype, **options)
    except ModelError:
        raise
    except Exception as error:  # not a language model's config, or one with values that no model can have
        refused = own_code_refused(f"The model of type '{config.model_type}'", error)
        raise refused or ModelError(
            f"No language model can be made from this config of type '{config.model_type}': {first_sentence(error)}"
        ) from error
    return model.eval()  # type: ignore[no-any-return]


@contextmanager
def _parts_counted() -> Iterator[None]:
    """Stop a config that makes a model without end: more parts than the largest models have."""
    made = 0

    def count(*_: object) -> None:
        nonlocal made
        made += 1
        if made > _MAX_PARTS:
            raise ModelError(
                f"config.json asks for a model of more than {_MAX_PARTS:,} modules and weights; get an intact copy."
            )

    hooks = (register_module_module_registration_hook(count), register_module_parameter_registration_hook(count))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _is_made_of(known: Any, config: PreTrainedConfig) -> bool:
    """Whether something is a model class that writes text, and is made of a config of this kind."""
    return hasattr(known, "can_generate") and known.config_class is type(config) and bool(known.can_generate())
