"""A tiny config of every causal-LM type that the installed transformers knows.

Each config is the type's own default with its sizes made small by the names of its fields, so that a type which
the next transformers brings is met as well. What the names do not tell stands in `OWN`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.tiny import save_tiny_tokenizer

DEPTH, VOCAB, POSITIONS, WINDOW = 6, 320, 128, 5
CAUSAL_LM_TYPES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

# The first pattern that matches a field's whole name decides. Sizes fit one another: 4 heads of 8 make 32.
_SIZES: tuple[tuple[str, object], ...] = (
    (r"vocab_size|.*vocab_size(_per_layer_input)?", VOCAB),
    (r"(num_)?(hidden|decoder|encoder)_layers|num_(decoder|encoder)_layers|n_layers?|num_layers", DEPTH),
    (r"(cross_attention_|attention_|backbone_)?hidden_size|d_model|n_embd|embedding_size|embedding_dim|model_dim"
     r"|word_embed_proj_dim|lru_width|hidden_dim", 32),
    (r".*(intermediate_size.*|ffn_dim|ffn_hidden_size|ffn_inner_dim)|dim_ff|dff|n_inner|d_inner|ff_dim", 48),
    (r"moe_num_experts|num_(local_)?experts|n_routed_experts|num_experts_in_.*", 4),
    (r"(moe_k|num_experts_per_tok(en)?|num_experts_per_topk|experts_per_token|moe_topk|top_k_experts|moe_top_k)", 2),
    (r"n_groups?|topk_groups?|num_expert_groups?|num_(limited|selected)_groups", 1),
    (r"num_key_value_heads|num_kv_heads|n_kv_heads|swa_num_key_value_heads|global_num_key_value_heads"
     r"|num_global_key_value_heads", 2),
    (r"n_heads?|num_heads|.*attention_heads|num_v_heads|num_k_heads|linear_num_(key_|value_)?heads|index_n_heads", 4),
    (r"(qk_(rope|nope)_|v_|index_|swa_|global_|linear_(key_|value_)?|swa_v_|dim_)?head(_dim|s_dim)?|kv_channels|dim_head"
     r"|qk_rope_head_dim|rotary_dim|d_head|attention_head_dim|d_kv", 8),
    (r".*lora_rank|laurel_rank|.*_low_rank_dim", 16),
    (r"(.*_)?sliding_window(_size)?|attention_window_size|local_attention|window_size|attention_chunk_size", WINDOW),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|max_sequence_length|model_max_length|max_length"
     r"|context_length|max_target_positions", POSITIONS),
    (r"mamba_n_heads|mamba_num_heads", 4),
    (r"mamba_d_head|mamba_head_dim|mamba_headdim", 16),
    (r"mamba_d_ssm", 64),
    (r"(mamba_)?d_state|state_size|mamba_d_state|ssm_state_size|mamba_d_state", 8),
    (r"mamba_dt_rank|time_step_rank", 4),
    (r".*chunk_size", 16),
    (r"index_topk", 8),
    (r"pad_token_id", 0),
    (r"bos_token_id", 1),
    (r"eos_token_id|sep_token_id|decoder_start_token_id", 2),
)  # fmt: skip

# What the names of the fields do not tell.
SLIDING, FULL, LINEAR = "sliding_attention", "full_attention", "linear_attention"
# A hybrid's defaults have one attention block in six. Real ones have many, so that a cut does not take the last.
HYBRID = [LINEAR, FULL, LINEAR, LINEAR, LINEAR, FULL]
OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 4]},
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "cohere_compass_text": {
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": 1e4} for kind in (SLIDING, FULL)},
        "layer_types": [SLIDING, FULL] * 3,
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48},
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "n_routed_experts": 4, "n_group": 1, "topk_group": 1},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "dots3_note_text": {
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 16,
        "swa_head_dim": 16,
        "swa_qk_nope_head_dim": 8,
        "swa_v_head_dim": 8,
    },
    "gemma3n_text": {"num_kv_shared_layers": 0, "intermediate_size": 48},
    "gpt_neo": {"attention_types": [[["global", "local"], 3]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 3},
    "kimi_linear": {"layer_types": HYBRID},
    "lfm3": {"layer_types": ["conv", FULL, "conv", "conv", SLIDING, "conv"]},
    "nemotron_h": {"layers_block_type": [LINEAR, FULL, "moe", LINEAR, "mlp", FULL]},
    "olmo_hybrid": {"layer_types": HYBRID},
    "qwen3_5_moe_text": {"layer_types": HYBRID},
    "qwen3_5_text": {"layer_types": HYBRID},
    "qwen3_next": {"layer_types": HYBRID},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8, "num_experts": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 3},
    "mamba2": {"num_heads": 8},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "reformer": {"is_decoder": True, "axial_pos_shape": [8, 16], "axial_pos_embds_dim": [8, 24]},
    "xlm": {"emb_dim": 32, "causal": True},
    "qwen4_exp_text": {
        "layer_types": [kind.replace(FULL, "indexed_attention") for kind in HYBRID],
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
    },
    "xlstm": {"hidden_size": 128, "embedding_dim": 128, "num_heads": 2},
    "zamba": {"num_hidden_layers": 12, "attention_hidden_size": 64},
    "xmod": {"default_language": "en_XX"},
    "zamba2": {
        "layer_types": ["mamba", "hybrid"] * 3,
        "hybrid_layer_ids": [1, 3, 5],
        "n_mamba_heads": 4,
        "attention_hidden_size": 64,
    },
    "zaya": {"num_experts_per_tok": 1},
}


# Types that plain transformers cannot make from a config of text alone, and why.
NOT_MADE = {
    "dots3_note": "its vision part's default does not fit a smaller depth",
    "gemma3n": "its vision part needs another package",
    "gemma4_assistant": "a draft model that reads its parent's hidden states",
    "gemma4_unified_assistant": "a draft model that reads its parent's hidden states",
    "musicgen": "transformers makes no causal LM of the config",
    "musicgen_melody": "transformers makes no causal LM of the config",
}


# Types that are encoders unless their config says otherwise.
ENCODERS = {
    "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "rembert",
    "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip


def tiny_config(model_type: str, **changes: Any) -> PreTrainedConfig:
    """The smallest useful config of a type: some blocks of width 32, with whatever makes the type itself."""
    own = {**OWN.get(model_type, {}), **changes}
    return CONFIG_MAPPING[model_type](**{**_shrunk(CONFIG_MAPPING[model_type]()), **own})


def save_tiny_zoo(model: PreTrainedModel, directory: Path) -> Path:
    """Write a tiny model as a user has it: a checkpoint with a tokenizer."""
    model.save_pretrained(directory)
    save_tiny_tokenizer(directory)
    return directory


def save_zoo_model(directory: Path, model_type: str, **changes: Any) -> Path:
    """Write a seeded model of a type, every parameter away from its default, so that no block passes for another."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type, **changes), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    model.generation_config.eos_token_id = None
    return save_tiny_zoo(model, directory)


def _shrunk(default: PreTrainedConfig) -> dict[str, Any]:
    """The fields that make a default config small, those of its parts (text, vision) among them."""
    fields = default.to_dict()
    small = {name: size for name in fields if _is_size(fields[name]) and (size := _size_of(name)) is not None}
    if "kv_lora_rank" in fields and "num_key_value_heads" in fields:  # latent attention: a key for every head
        small["num_key_value_heads"] = 4
    for part in default.sub_configs:
        if isinstance(config := getattr(default, part, None), PreTrainedConfig):
            small[part] = {**_shrunk(config), **OWN.get(config.model_type, {}), "model_type": config.model_type}
    return small


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _size_of(name: str) -> object:
    return next((size for pattern, size in _SIZES if re.fullmatch(pattern, name)), None)
