"""The weight matrices of a block: what each belongs to, found by structure, and under what name it is stored."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmprune.choices import Part
from llmprune.models.anatomy import find_blocks
from llmprune.models.block_linears import find_linears
from llmprune.models.loading import open_shell
from llmprune.models.open_block import block_linears
from tests.zoo import save_zoo_model, tiny_config

# What chooses experts, or weighs a branch by one number a token, in the last block of a family.
ROUTERS = {
    "afmoe": {"mlp.router.gate"},
    "dbrx": {"ffn.router.layer"},
    "hunyuan_v1_moe": {"mlp.gate.wg"},
    "jetmoe": {"mlp.router.layer", "self_attention.experts.router.layer"},
    "llama4_text": {"feed_forward.router"},
    "phimoe": {"mlp.router"},
    "qwen2_moe": {"mlp.gate", "mlp.shared_expert_gate"},
    "qwen3_next": {"mlp.gate", "mlp.shared_expert_gate"},
    "mixtral": {"mlp.gate"},
    "gpt_oss": {"mlp.router"},
    # None:
    "llama": set(),
    "mamba": set(),  # whose convolution has three dimensions too
    "recurrent_gemma": set(),
    "lfm3": set(),  # whose attention has a gate of as many rows as there are heads
}


@pytest.mark.parametrize("model_type", ROUTERS)
def test_routers_and_gates_of_one_row_are_told_from_other_matrices(model_type):
    config = tiny_config(model_type)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    block = find_blocks(model, config)[1][-1]
    slots = find_linears(block, lambda name: name)
    assert {path for path, slot in slots.items() if slot.part is Part.ROUTERS} == ROUTERS[model_type]


def test_attention_is_known_by_its_name_and_all_else_counts_as_ffn():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny_config("llama"))
    slots = find_linears(model.model.layers[0], lambda name: name)
    assert {path: slot.part for path, slot in slots.items()} == {
        **{f"self_attn.{name}_proj": Part.ATTENTION for name in "qkvo"},
        **{f"mlp.{name}_proj": Part.FFN for name in ("gate", "up", "down")},
    }


def test_a_matrix_goes_by_the_name_that_the_checkpoint_gives_it(tmp_path):
    shell = open_shell(save_zoo_model(tmp_path / "model", "phimoe"), device=torch.device("cpu"))
    assert block_linears(shell, 2)["mlp.router"].tensor == "model.layers.2.block_sparse_moe.gate.weight"
    assert block_linears(shell, 2)["self_attn.q_proj"].tensor == "model.layers.2.self_attn.q_proj.weight"


def test_a_matrix_that_no_tensor_holds_as_it_is_has_no_slot():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny_config("llama"))
    slots = find_linears(model.model.layers[0], lambda name: None if "q_proj" in name else name)
    assert "self_attn.q_proj" not in slots
    assert len(slots) == 6
