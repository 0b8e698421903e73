"""What a removal does to names and configs, for any subset of blocks."""

import json
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers.models.bamba import BambaConfig
from transformers.models.deepseek_v3 import DeepseekV3Config
from transformers.models.falcon_h1 import FalconH1Config
from transformers.models.gemma3 import Gemma3TextConfig
from transformers.models.gpt2 import GPT2Config
from transformers.models.lfm2 import Lfm2Config
from transformers.models.llama import LlamaConfig
from transformers.models.nemotron_h import NemotronHConfig
from transformers.models.phi3 import Phi3Config
from transformers.models.qwen2 import Qwen2Config
from transformers.models.qwen2_5_omni import Qwen2_5OmniConfig
from transformers.models.qwen2_vl import Qwen2VLConfig
from transformers.models.smollm3 import SmolLM3Config

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


LONG_ROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


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


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (LlamaConfig, {"suppress_tokens": [5, 6, 7, 8], "begin_suppress_tokens": [1, 2, 3, 4], "scores": [1, 2, 3, 4]}),
        (Phi3Config, {"hidden_size": 32, "num_attention_heads": 4, "rope_scaling": LONG_ROPE}),
        (FalconH1Config, {"ssm_multipliers": [0.1, 0.2, 0.3, 0.4, 0.5], "num_hidden_layers": 5}),
        (BambaConfig, {"time_step_limit": [0.0, float("inf")], "num_hidden_layers": 2, "attn_layer_indices": [1]}),
    ],
)
def test_lists_of_other_things_stay_whatever_their_length(kind, fields):
    raw = {"model_type": kind.model_type, "num_hidden_layers": 4, **fields}
    new = cut_config(raw, kind.from_dict(deepcopy(raw)), [0])
    assert new["num_hidden_layers"] == 1
    others = {"num_hidden_layers", "attn_layer_indices"}
    assert {name: new[name] for name in fields if name not in others} == {
        name: fields[name] for name in fields if name not in others
    }


def test_letters_and_spelled_indices_of_blocks_follow_them():
    raw = {"num_hidden_layers": 6, "hybrid_override_pattern": "M-M*-M", "mtp_hybrid_override_pattern": "*-"}
    new = cut_config(raw, NemotronHConfig.from_dict(deepcopy(raw)), [0, 3, 4])
    assert (new["hybrid_override_pattern"], new["mtp_hybrid_override_pattern"]) == ("M*-", "*-")
    assert NemotronHConfig.from_dict(new).hybrid_override_pattern == "M*-"
    raw = {"num_hidden_layers": 6, "moe_layers_enum": "2,3,5"}
    assert cut_config(raw, LlamaConfig.from_dict(raw), [1, 3, 4, 5])["moe_layers_enum"] == "1,3"


def test_indices_of_one_kind_of_blocks_follow_them_whether_or_not_they_are_all():
    for full in ([1, 4], [0, 1, 2, 3, 4, 5]):
        raw = {"model_type": "lfm2", "num_hidden_layers": 6, "full_attn_idxs": full}
        new = cut_config(raw, Lfm2Config.from_dict(deepcopy(raw)), [0, 1, 4])
        assert new["full_attn_idxs"] == [place for place, block in enumerate([0, 1, 4]) if block in full]
        assert Lfm2Config.from_dict({**new, "layer_types": None}).layer_types == new["layer_types"]


def test_gpt_neos_repeated_kinds_and_its_list_say_the_same():
    config = CONFIGS["gpt-neo"]()
    new = cut(config, [0, 2, 3])
    assert new["attention_layers"] == ["global", "global", "local"]
    assert (
        type(config)(num_layers=3, attention_types=new["attention_types"]).attention_layers == new["attention_layers"]
    )


@pytest.mark.parametrize(
    ("kind", "rule", "listed", "kept"),
    [
        (SmolLM3Config, {"no_rope_layer_interval": 3}, "no_rope_layers", [0, 1, 2]),
        (Gemma3TextConfig, {"sliding_window_pattern": 3}, "layer_types", [0, 1, 2]),
    ],
)
def test_a_rule_goes_where_it_would_contradict_the_list_that_counts_and_only_there(kind, rule, listed, kept):
    raw = {"model_type": kind.model_type, "num_hidden_layers": 6, **rule}
    agreeing, contradicted = (cut_config(raw, kind.from_dict(deepcopy(raw)), blocks) for blocks in (kept, [0, 2, 5]))
    assert {**raw, **rule, "num_hidden_layers": 3} == {name: agreeing[name] for name in raw}
    assert not set(rule) & set(contradicted)
    whole = getattr(kind.from_dict(deepcopy(raw)), listed)
    assert getattr(kind.from_dict(contradicted), listed) == [whole[block] for block in (0, 2, 5)]


def test_blocks_behind_the_last_one_follow_the_last_that_is_left():
    names = [*names_of(6), "model.layers.6.eh_proj.weight", "model.layers.7.eh_proj.weight"]
    held = {name: name for name in names_of(6)}
    blocks = name_blocks(names, held, path="model.layers", num_blocks=6)
    renames = renamed_tensors(blocks, [0, 2, 5])
    assert renames["model.layers.6.eh_proj.weight"] == "model.layers.3.eh_proj.weight"
    assert renames["model.layers.7.eh_proj.weight"] == "model.layers.4.eh_proj.weight"
    assert sorted(renames.values()) == sorted({*names_of(3), *list(renames.values())})


def test_lists_with_entries_for_blocks_behind_the_last_keep_them():
    raw = {"num_hidden_layers": 4, "layer_kinds": ["a", "b", "c", "d", "next"], "moe_layers": [1, 3, 4]}
    config = LlamaConfig.from_dict(raw)
    new = cut_config(raw, config, [0, 3], behind=1)
    assert (new["layer_kinds"], new["moe_layers"]) == (["a", "d", "next"], [1, 2])
    assert cut_config(raw, config, [0, 3])["layer_kinds"] == raw["layer_kinds"]


def test_everything_that_is_not_about_blocks_stays_as_it_was_written():
    config = CONFIGS["llama"]()
    raw = {**config.to_dict(), "something": {"of": "ours"}}
    changed = {key for key, value in cut_config(raw, config, [0, 1]).items() if raw.get(key) != value}
    assert changed == {"num_hidden_layers"}


def test_a_text_section_left_to_its_defaults_gets_its_fields():
    config = CONFIGS["gemma3-multimodal"]()
    raw = {"model_type": "gemma3"}
    assert cut_config(raw, config, [0, 2])["text_config"]["num_hidden_layers"] == 2


def test_a_text_section_and_what_repeats_it_beside_it_change_together():
    config = CONFIGS["gemma3-multimodal"]()
    raw = {**config.to_dict(), "num_hidden_layers": DEPTH, "hidden_size": 64}
    new = cut_config(raw, config, [0, 2])
    assert new["num_hidden_layers"] == new["text_config"]["num_hidden_layers"] == 2
    assert new["hidden_size"] == 64
    assert new["vision_config"] == raw["vision_config"]


def test_a_config_from_before_there_was_a_text_section_stays_flat():
    raw = {"model_type": "qwen2_vl", "hidden_size": 32, "num_hidden_layers": 6, "vision_config": {"depth": 6}}
    new = cut_config(raw, Qwen2VLConfig.from_dict(deepcopy(raw)), [0, 2])
    assert (new["num_hidden_layers"], "text_config" in new, new["vision_config"]) == (2, False, {"depth": 6})
    text = Qwen2VLConfig.from_dict(new).get_text_config()
    assert (text.num_hidden_layers, text.hidden_size) == (2, 32)


def test_a_text_section_inside_a_section_is_found():
    config = Qwen2_5OmniConfig(thinker_config={"text_config": {"num_hidden_layers": 4}})
    raw = json.loads(config.to_json_string())
    new = cut_config(raw, config, [0, 2, 3])
    assert new["thinker_config"]["text_config"]["num_hidden_layers"] == 3
    assert {name: new[name] for name in raw if name != "thinker_config"} == {
        name: raw[name] for name in raw if name != "thinker_config"
    }


def test_only_equal_copies_of_a_tied_tensor_are_named(tmp_path):
    directory = save_tiny("llama-tied", tmp_path / "model")
    stored = load_file(directory / "model.safetensors")
    embedding = stored["model.embed_tokens.weight"]
    for head, named in [(None, []), (embedding.clone(), ["lm_head.weight"]), (embedding + 1, [])]:
        tensors = stored if head is None else {**stored, "lm_head.weight": head}
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        assert tied_copies(open_shell(directory, device=torch.device("cpu"))) == named
