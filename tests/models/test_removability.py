"""What the check allows computes the same without the blocks; what it refuses would not, or no config can say it."""

import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from llmprune.artifacts.checkpoints.block_numbers import kept_blocks
from llmprune.errors import ModelError
from llmprune.models import removability
from llmprune.models.anatomy import find_blocks
from llmprune.models.architecture import empty_model
from llmprune.models.config import load_config, read_config
from llmprune.models.loading import load_whole, open_shell
from llmprune.models.removability import RemovalCheck
from llmprune.models.surgery import cut_config
from tests.reference_search import skipped_logits
from tests.zoo import DEPTH, save_zoo_model

CPU = torch.device("cpu")
TOKENS = torch.randint(3, 300, (2, 24), generator=torch.Generator().manual_seed(0))
CUTS = [(2,), (0,), (5,), (1, 4), (0, 3, 5)]
ALL, NONE = [True] * 5, [False] * 5
PERIODS = {"attn_layer_period": 3, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}

# Which of the cuts are possible. A config says the others' blocks, or it cannot.
FAMILIES = [
    ("llama", {}, ALL),
    ("minicpm3", {}, ALL),  # a scale by the depth
    ("recurrent_gemma", {}, ALL),  # kinds that are repeated
    ("ernie4_5_moe", {"moe_layer_start_index": 2}, ALL),
    ("minimax", {}, ALL),  # slopes by the index, which are stored
    ("bamba", {}, [True, True, True, False, True]),  # without attention no cache can be made
    ("jamba", PERIODS, [False, True, True, False, True]),
    ("modernbert-decoder", {}, [True, False, True, True, False]),  # the first block has a norm less
    ("gpt_neox_japanese", {}, [True, True, False, True, False]),  # the last block has a bias more
    ("diffllama", {}, [False, False, True, False, False]),  # all but the last would move
    ("beam", {}, [False, False, True, False, False]),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, [False, False, True, False, False]),
    ("gemma4_text", {}, NONE),  # a table for all blocks together
    ("rwkv", {"rescale_every": 0}, [True, False, True, True, False]),  # the first block has a norm more
]


def check_of(directory: Path) -> RemovalCheck:
    shell = open_shell(directory, device=CPU)
    raw = read_config(directory)
    make = partial(empty_model, dtype=torch.float32)
    filled = frozenset(shell.plan.places.by_tensor.values())
    return RemovalCheck(raw, load_config(directory), filled, make=make, device=CPU)


def is_allowed(check: RemovalCheck, removed: tuple[int, ...]) -> bool:
    try:
        check.require(kept_blocks(DEPTH, removed))
    except ModelError:
        return False
    return True


def computes_the_same(whole: PreTrainedModel, cut: PreTrainedModel, removed: tuple[int, ...]) -> bool:
    """Whether ``cut`` has room for just the weights that are left, and computes what is wanted."""
    path, _ = find_blocks(whole, whole.config)
    place = {f"{path}.{old}.": f"{path}.{new}." for new, old in enumerate(kept_blocks(DEPTH, removed))}
    left = {}
    for name, tensor in whole.state_dict().items():
        block = re.match(rf"{re.escape(path)}\.\d+\.", name)
        if block is None or block[0] in place:
            left[name if block is None else place[block[0]] + name[block.end() :]] = tensor
    try:
        cut.load_state_dict(left)
    except RuntimeError:  # it lacks some, has no place for some, or of another shape
        return False
    with torch.no_grad():
        found = cut.eval()(input_ids=TOKENS, use_cache=False).logits
    return bool((found - skipped_logits(whole, TOKENS, removed)).abs().max() < 1e-4)


@pytest.mark.parametrize(("model_type", "changes", "possible"), FAMILIES, ids=[row[0] for row in FAMILIES])
def test_what_is_allowed_computes_the_same_and_what_is_refused_does_not(model_type, changes, possible, tmp_path):
    directory = save_zoo_model(tmp_path / "model", model_type, **changes)
    check, whole = check_of(directory), load_whole(directory, device=CPU, dtype=torch.float32)
    assert [is_allowed(check, removed) for removed in CUTS] == possible
    raw, config = read_config(directory), load_config(directory)
    for removed, allowed in zip(CUTS, possible, strict=True):
        (tmp_path / "config.json").write_text(json.dumps(cut_config(raw, config, kept_blocks(DEPTH, removed))))
        cut = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
        without_attention = model_type == "bamba" and removed == (1, 4)  # right, but no cache can be made
        assert computes_the_same(whole, cut, removed) == (allowed or without_attention)


def refusal(directory: Path, removed: tuple[int, ...]) -> str:
    with pytest.raises(ModelError) as caught:
        check_of(directory).require(kept_blocks(DEPTH, removed))
    return str(caught.value)


def test_a_refusal_says_which_block_would_compute_what_else(tmp_path):
    found = refusal(save_zoo_model(tmp_path / "d", "diffllama"), (1, 4))
    assert found.startswith(
        "Blocks 1, 4 cannot be removed from this model of type diffllama: block 2, as block 1 of 4,"
    )
    found = refusal(save_zoo_model(tmp_path / "j", "jamba", **PERIODS), (2,))
    assert found.startswith("Block 2 cannot be removed from this model of type jamba: block 3 would become block 2,")
    found = refusal(save_zoo_model(tmp_path / "g", "gemma4_text"), (2,))
    assert "embed_tokens_per_layer.weight has shape (320, 1280), and (320, 1536) is stored" in found
    found = refusal(save_zoo_model(tmp_path / "b", "bamba"), (1, 4))
    assert "what is left could not generate with the KV cache (transformers: 'get_seq_length'" in found
    types = ["linear_attention"] * 5 + ["full_attention"]
    found = refusal(save_zoo_model(tmp_path / "o", "olmo_hybrid", layer_types=types), (5,))
    assert "what is left has no valid config" in found
    assert "expects at least one attention layer" in found


def test_a_sliding_window_is_told_from_full_attention_however_long_it_is(tmp_path, monkeypatch):
    types = ["sliding_attention"] * 3 + ["full_attention"] * 3
    check = check_of(save_zoo_model(tmp_path / "m", "olmo3", layer_types=types, sliding_window=4096))
    check.require([0, 1, 2, 4, 5])
    forgetful = {"num_hidden_layers": 5, "layer_types": types[:5]}  # the kinds do not follow the blocks
    monkeypatch.setattr(removability, "cut_config", lambda raw, config, kept: {**raw, **forgetful})
    with pytest.raises(ModelError, match="block 3, as block 2 of 5, would give other outputs"):
        check.require([0, 1, 3, 4, 5])


def test_one_block_that_could_go_is_enough_to_begin_with(tmp_path):
    diffllama = check_of(save_zoo_model(tmp_path / "d", "diffllama"))
    diffllama.require_some(range(DEPTH))
    diffllama.require_some([])
    with pytest.raises(ModelError, match=r"^None of the blocks can be removed\. Block 1 cannot be removed"):
        diffllama.require_some(range(1, DEPTH - 1))


def test_looking_leaves_no_weights_behind(tmp_path):
    check = check_of(save_zoo_model(tmp_path / "m", "llama"))
    check.require([0, 2, 3, 5])
    assert all(parameter.is_meta for parameter in check._whole.blocks.parameters())


def test_what_stored_buffers_hold_before_they_are_read_does_not_matter(tmp_path, monkeypatch):
    """xIELU keeps scalars as stored buffers. In a model without weights they hold whatever was in memory."""
    compute = removability.compute_buffers

    def spoilt(model, *, device):
        compute(model, device=device)
        for name, buffer in model.named_buffers():
            if name in model.state_dict() and buffer.is_floating_point():
                buffer.fill_(float("nan"))

    monkeypatch.setattr(removability, "compute_buffers", spoilt)
    check_of(save_zoo_model(tmp_path / "m", "apertus")).require([0, 1, 5])
