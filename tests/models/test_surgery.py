"""What a removal does to names and configs, for any subset of blocks."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers.models.deepseek_v3 import DeepseekV3Config
from transformers.models.gemma3 import Gemma3TextConfig
from transformers.models.gpt2 import GPT2Config
from transformers.models.qwen2 import Qwen2Config

from llmprune.artifacts.checkpoints.block_numbers import kept_blocks
from llmprune.models.anatomy import name_blocks
from llmprune.models.loading import open_shell
from llmprune.models.surgery import cut_config, renamed_tensors, tied_copies
from tests.tiny_models import CONFIGS, DEPTH, save_tiny

PARTS = ("mlp.up.weight", "attn.q.weight", "experts.3.w1.weight")
OUTSIDE = ("model.embed.weight", "model.norm.weight", "lm_head.weight")

depths = st.integers(2, 14)


@st.composite
def removals(draw, depth=None):
    """A depth, and blocks to remove: at least one, never all, in any order."""
    depth = depth or draw(depths)
    return depth, draw(st.lists(st.integers(0, depth - 1), min_size=1, max_size=depth - 1, unique=True))


def names_of(depth: int) -> list[str]:
    return [*OUTSIDE, *(f"model.layers.{block}.{part}" for block in range(depth) for part in PARTS)]


def sorted_by_block(names, depth: int):
    return name_blocks(names, {name: name for name in names}, path="model.layers", num_blocks=depth)


def cut(config, kept) -> dict:
    return cut_config(config.to_dict(), config, kept)


@given(removals())
def test_renaming_keeps_exactly_the_kept_tensors_under_the_names_of_a_shallower_model(removal):
    depth, removed = removal
    kept = kept_blocks(depth, removed)
    blocks = sorted_by_block(names_of(depth), depth)
    renames = renamed_tensors(blocks, kept)
    assert sorted(renames.values()) == sorted(names_of(len(kept)))  # a bijection: as many values as keys
    assert len(renames) == len(set(renames.values()))
    for new, old in enumerate(kept):
        for part in PARTS:
            assert renames[f"model.layers.{old}.{part}"] == f"model.layers.{new}.{part}"
    assert all(renames[name] == name for name in OUTSIDE)


@given(removals(), st.data())
def test_removing_twice_renames_as_removing_the_union(removal, data):
    depth, first = removal
    left = kept_blocks(depth, first)
    second = data.draw(st.lists(st.integers(0, len(left) - 1), max_size=len(left) - 1, unique=True))
    blocks = sorted_by_block(names_of(depth), depth)
    once = renamed_tensors(blocks, left)
    again = renamed_tensors(sorted_by_block(once.values(), len(left)), kept_blocks(len(left), second))
    union = renamed_tensors(blocks, kept_blocks(depth, [*first, *(left[block] for block in second)]))
    assert {old: again[new] for old, new in once.items() if new in again} == union


@given(removals(DEPTH))
def test_layer_types_follow_the_blocks(removal):
    config = CONFIGS["gemma3"]()
    kept = kept_blocks(*removal)
    new = cut(config, kept)
    assert new["num_hidden_layers"] == len(kept)
    assert new["layer_types"] == [config.layer_types[block] for block in kept]


@settings(max_examples=40)
@given(removals(DEPTH))
def test_any_cut_config_can_be_loaded_and_cut_again(removal):
    for family in ("gemma2", "gpt2", "gpt-neo", "qwen2", "qwen3-moe", "llama4", "smollm3", "bloom"):
        config = CONFIGS[family]()
        kept = kept_blocks(*removal)
        reloaded = type(config).from_dict(cut(config, kept))
        assert reloaded.num_hidden_layers == len(kept)
        same = cut(reloaded, range(len(kept)))
        assert type(config).from_dict(same).to_dict() == reloaded.to_dict()


@given(removals(DEPTH))
def test_qwen3_moe_blocks_keep_their_kind(removal):
    def sparse(config, block):
        return block not in config.mlp_only_layers and (block + 1) % config.decoder_sparse_step == 0

    config = CONFIGS["qwen3-moe"]()
    kept = kept_blocks(*removal)
    new = type(config).from_dict(cut(config, kept))
    assert [sparse(new, block) for block in range(len(kept))] == [sparse(config, block) for block in kept]


@given(removals(DEPTH), st.integers(0, DEPTH))
def test_counts_of_leading_blocks_count_the_ones_that_are_left(removal, leading):
    kept = kept_blocks(*removal)
    config = DeepseekV3Config(num_hidden_layers=DEPTH, first_k_dense_replace=leading)
    assert cut(config, kept)["first_k_dense_replace"] == len([block for block in kept if block < leading])


def test_a_rule_about_indices_is_written_out():
    # Neither config.json says layer_types; both models derive them from a count.
    raw = {"model_type": "gemma3_text", "num_hidden_layers": 6, "sliding_window_pattern": 3}
    new = cut_config(raw, Gemma3TextConfig.from_dict(raw), [1, 2, 5])
    assert new["layer_types"] == ["sliding_attention", "full_attention", "full_attention"]
    raw = {"model_type": "qwen2", "num_hidden_layers": 4, "use_sliding_window": True, "max_window_layers": 2}
    new = cut_config({**raw, "layer_types": None}, Qwen2Config.from_dict(raw), [0, 2, 3])
    assert new["layer_types"] == ["full_attention", "sliding_attention", "sliding_attention"]


def test_depth_is_spelled_as_the_config_spells_it():
    config = GPT2Config(n_layer=4)
    new = cut(config, [0, 3])
    assert new["n_layer"] == 2
    assert "num_hidden_layers" not in new
    silent = {"model_type": "gpt2"}  # relies on the default of 12
    assert cut_config(silent, GPT2Config(), range(11))["n_layer"] == 11


def test_lists_that_only_happen_to_be_as_long_as_the_model_is_deep_stay():
    config = CONFIGS["llama"]()
    config.eos_token_id = list(range(DEPTH))
    config.architectures = [f"Kind{index}" for index in range(DEPTH)]
    new = cut(config, [0, 1])
    assert (new["eos_token_id"], new["architectures"]) == (config.eos_token_id, config.architectures)


def test_everything_that_is_not_about_blocks_stays_as_it_was_written():
    config = CONFIGS["llama"]()
    raw = {**config.to_dict(), "something": {"of": "ours"}}
    changed = {key for key, value in cut_config(raw, config, [0, 1]).items() if raw.get(key) != value}
    assert changed == {"num_hidden_layers"}


def test_a_text_section_left_to_its_defaults_gets_its_fields():
    config = CONFIGS["gemma3-multimodal"]()
    raw = {"model_type": "gemma3"}
    assert cut_config(raw, config, [0, 2])["text_config"]["num_hidden_layers"] == 2


def test_only_equal_copies_of_a_tied_tensor_are_named(tmp_path):
    directory = save_tiny("llama-tied", tmp_path / "model")
    stored = load_file(directory / "model.safetensors")
    embedding = stored["model.embed_tokens.weight"]
    for head, named in [(None, []), (embedding.clone(), ["lm_head.weight"]), (embedding + 1, [])]:
        tensors = stored if head is None else {**stored, "lm_head.weight": head}
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        assert tied_copies(open_shell(directory, device=torch.device("cpu"))) == named
