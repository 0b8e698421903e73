"""A tiny model of every family that llmprune must cut correctly, and a tokenizer for them."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.bloom import BloomConfig
from transformers.models.falcon import FalconConfig
from transformers.models.gemma2 import Gemma2Config
from transformers.models.gemma3 import Gemma3Config, Gemma3TextConfig
from transformers.models.gemma4 import Gemma4TextConfig
from transformers.models.gpt2 import GPT2Config
from transformers.models.gpt_neo import GPTNeoConfig
from transformers.models.gpt_neox import GPTNeoXConfig
from transformers.models.llama import LlamaConfig
from transformers.models.llama4 import Llama4TextConfig
from transformers.models.mistral import MistralConfig
from transformers.models.mixtral import MixtralConfig
from transformers.models.opt import OPTConfig
from transformers.models.phi3 import Phi3Config
from transformers.models.qwen2 import Qwen2Config
from transformers.models.qwen3 import Qwen3Config
from transformers.models.qwen3_moe import Qwen3MoeConfig
from transformers.models.smollm3 import SmolLM3Config

DEPTH, HIDDEN, VOCAB, POSITIONS = 6, 32, 128, 128
WINDOW = 5  # of sliding attention: far smaller than any test sequence

SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
NO_HEAD_DIM = {key: value for key, value in SHAPE.items() if key != "head_dim"}
OLD_SHAPE = {key: value for key, value in NO_HEAD_DIM.items() if key != "num_key_value_heads"}
GPT2_SHAPE = {"vocab_size": VOCAB, "n_embd": HIDDEN, "n_layer": DEPTH, "n_head": 4, "n_positions": POSITIONS}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
S, F = "sliding_attention", "full_attention"
GEMMA4 = {**SHAPE, "sliding_window": WINDOW, "layer_types": [S, F, S, S, F, F], "global_head_dim": 16}

CONFIGS = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "llama-tied": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=WINDOW),
    "qwen2": lambda: Qwen2Config(**NO_HEAD_DIM, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2),
    "qwen3": lambda: Qwen3Config(**SHAPE, tie_word_embeddings=True),
    "gemma2": lambda: Gemma2Config(
        **SHAPE,
        sliding_window=WINDOW,
        query_pre_attn_scalar=8,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **SHAPE, sliding_window=WINDOW, query_pre_attn_scalar=8, layer_types=[S, S, F, S, S, F]
    ),
    "gemma3-multimodal": lambda: Gemma3Config(
        text_config={**SHAPE, "sliding_window": WINDOW, "layer_types": [S, S, F, S, S, F]},
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": DEPTH,  # as deep as the decoder, and not to be taken for it
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        mm_tokens_per_image=4,
        boi_token_index=100,
        eoi_token_index=101,
        image_token_index=102,
    ),
    "gemma4": lambda: Gemma4TextConfig(**GEMMA4, hidden_size_per_layer_input=0),
    "gemma4-embedding-per-block": lambda: Gemma4TextConfig(
        **GEMMA4, hidden_size_per_layer_input=4, vocab_size_per_layer_input=VOCAB
    ),
    "phi3": lambda: Phi3Config(**NO_HEAD_DIM, sliding_window=WINDOW),
    "opt": lambda: OPTConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        ffn_dim=48,
        num_hidden_layers=DEPTH,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "opt-projected": lambda: OPTConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        word_embed_proj_dim=16,
        do_layer_norm_before=False,
        ffn_dim=48,
        num_hidden_layers=DEPTH,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "gpt2": lambda: GPT2Config(**GPT2_SHAPE, bos_token_id=1, eos_token_id=2),
    "gpt-neo": lambda: GPTNeoConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        num_layers=DEPTH,
        num_heads=4,
        max_position_embeddings=POSITIONS,
        attention_types=[[["global", "local"], DEPTH // 2]],
        window_size=WINDOW,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "gpt-neox": lambda: GPTNeoXConfig(**OLD_SHAPE),
    "bloom": lambda: BloomConfig(vocab_size=VOCAB, hidden_size=HIDDEN, n_layer=DEPTH, n_head=4, pad_token_id=0),
    "falcon-rotary": lambda: FalconConfig(**OLD_SHAPE),
    "falcon-alibi": lambda: FalconConfig(**OLD_SHAPE, alibi=True, parallel_attn=False, multi_query=False, bias=True),
    "mixtral": lambda: MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2),
    "qwen3-moe": lambda: Qwen3MoeConfig(**SHAPE, **EXPERTS, num_experts=4, decoder_sparse_step=2, mlp_only_layers=[3]),
    "llama4": lambda: Llama4TextConfig(
        **SHAPE, intermediate_size_mlp=48, num_local_experts=2, interleave_moe_layer_step=1, attention_chunk_size=WINDOW
    ),
    "smollm3": lambda: SmolLM3Config(**SHAPE, no_rope_layer_interval=3),
}

FAMILIES = tuple(family for family in CONFIGS if family != "gemma4-embedding-per-block")  # whose blocks cannot go


def tiny_model(family: str) -> PreTrainedModel:
    """A seeded model in float32, every parameter away from its default, so that no block passes for another."""
    torch.manual_seed(0)
    config = CONFIGS[family]()
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    model.generation_config.eos_token_id = None
    return model


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Words w3 ... w127 are the tokens 3 ... 127."""
    vocab = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{token}": token for token in range(3, VOCAB)}}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


def save_tiny(family: str, directory: Path, *, max_shard_size: str = "5GB") -> Path:
    """Write a tiny model and its tokenizer as ``save_pretrained`` does."""
    tiny_model(family).save_pretrained(directory, max_shard_size=max_shard_size)
    tiny_tokenizer().save_pretrained(directory)
    return directory


def random_tokens(windows: int, seq_len: int, *, seed: int = 0) -> torch.Tensor:
    """(windows, seq_len) of tokens that are no special ones."""
    return torch.randint(3, 100, (windows, seq_len), generator=torch.Generator().manual_seed(seed))
