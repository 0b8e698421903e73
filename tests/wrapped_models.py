"""A tiny model of every family in which the language model is wrapped: text beside images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel
from transformers.models.gemma3 import Gemma3Config
from transformers.models.gemma4 import Gemma4Config
from transformers.models.idefics3 import Idefics3Config
from transformers.models.internvl import InternVLConfig
from transformers.models.llava import LlavaConfig
from transformers.models.llava_next import LlavaNextConfig
from transformers.models.mistral3 import Mistral3Config
from transformers.models.paligemma import PaliGemmaConfig
from transformers.models.qwen2_5_vl import Qwen2_5_VLConfig
from transformers.models.qwen2_vl import Qwen2VLConfig
from transformers.models.qwen3_vl import Qwen3VLConfig
from transformers.models.smolvlm import SmolVLMConfig

from tests.tiny_models import DEPTH, NO_HEAD_DIM, SHAPE, WINDOW, F, S, tiny_tokenizer

IMAGE = 120  # the token that stands for a piece of an image
# A tower as deep as the text, and larger.
TOWER = {
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}  # as deep as the text
WIDE = {"hidden_size": 64, "intermediate_size": 96, **TOWER}
QWEN = {
    "text_config": {**NO_HEAD_DIM, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
    "image_token_id": IMAGE, "video_token_id": 121, "vision_start_token_id": 122, "vision_end_token_id": 123,
}  # fmt: skip
QWEN_TOWER = {"depth": DEPTH, "patch_size": 14, "num_heads": 2}
GEMMA = {**SHAPE, "sliding_window": WINDOW, "layer_types": [S, F, S, S, F, F]}

WRAPPED: dict[str, Callable[[], PreTrainedConfig]] = {
    "llava": lambda: LlavaConfig(
        text_config={**SHAPE, "model_type": "llama"},
        vision_config={**WIDE, "model_type": "clip_vision_model"},
        image_token_id=IMAGE,
    ),
    "llava-next": lambda: LlavaNextConfig(
        text_config={**SHAPE, "model_type": "mistral", "sliding_window": WINDOW},
        vision_config={**WIDE, "model_type": "clip_vision_model"},
        image_token_id=IMAGE,
        image_grid_pinpoints=[[28, 28]],
    ),
    "qwen2-vl": lambda: Qwen2VLConfig(
        **QWEN, vision_config={**QWEN_TOWER, "embed_dim": 64, "hidden_size": 32, "mlp_ratio": 2}
    ),
    "qwen2.5-vl": lambda: Qwen2_5_VLConfig(
        **QWEN,
        vision_config={
            **QWEN_TOWER,
            "hidden_size": 64,
            "intermediate_size": 96,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1, 3],
        },
    ),
    "qwen3-vl": lambda: Qwen3VLConfig(
        **{**QWEN, "text_config": {**QWEN["text_config"], "head_dim": 8}},
        vision_config={
            **QWEN_TOWER,
            "hidden_size": 64,
            "intermediate_size": 96,
            "out_hidden_size": 32,
            "deepstack_visual_indexes": [1, 3],
            "num_position_embeddings": 16,
        },
    ),
    "mistral3": lambda: Mistral3Config(
        text_config={**SHAPE, "model_type": "mistral"},
        vision_config={**WIDE, "head_dim": 32, "model_type": "pixtral"},
        image_token_id=IMAGE,
    ),
    "internvl": lambda: InternVLConfig(
        text_config={**NO_HEAD_DIM, "model_type": "qwen2"},
        vision_config={**WIDE, "image_size": [28, 28], "patch_size": [14, 14]},
        image_token_id=IMAGE,
    ),
    "paligemma": lambda: PaliGemmaConfig(
        text_config={**SHAPE, "model_type": "gemma"},
        vision_config={**WIDE, "model_type": "siglip_vision_model", "projection_dim": 32},
        projection_dim=32,
        image_token_id=IMAGE,
    ),
    "paligemma2": lambda: PaliGemmaConfig(
        text_config={**GEMMA, "model_type": "gemma2", "query_pre_attn_scalar": 8},
        vision_config={**WIDE, "model_type": "siglip_vision_model", "projection_dim": 32},
        projection_dim=32,
        image_token_id=IMAGE,
    ),
    "smolvlm": lambda: SmolVLMConfig(
        text_config={**SHAPE, "model_type": "llama"}, vision_config=WIDE, image_token_id=IMAGE, scale_factor=1
    ),
    "idefics3": lambda: Idefics3Config(
        text_config={**SHAPE, "model_type": "llama"}, vision_config=WIDE, image_token_id=IMAGE, scale_factor=1
    ),
    "gemma3": lambda: Gemma3Config(
        text_config=GEMMA,
        vision_config={**WIDE, "model_type": "siglip_vision_model"},
        mm_tokens_per_image=4,
        image_token_index=IMAGE,
        boi_token_index=121,
        eoi_token_index=122,
    ),
    "gemma4": lambda: Gemma4Config(
        text_config={**GEMMA, "global_head_dim": 16, "hidden_size_per_layer_input": 0},
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": DEPTH,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "global_head_dim": 32,
            "patch_size": 14,
        },
        audio_config=None,
        image_token_id=IMAGE,
        video_token_id=121,
        audio_token_id=122,
        boi_token_id=123,
    ),
}


def wrapped_model(family: str) -> PreTrainedModel:
    """A seeded model in float32, every parameter away from its default."""
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(WRAPPED[family](), dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    model.generation_config.eos_token_id = None
    return model


def save_wrapped(family: str, directory: Path) -> Path:
    """Write a wrapped model and its tokenizer as ``save_pretrained`` does."""
    wrapped_model(family).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory
