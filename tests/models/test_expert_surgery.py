"""Removing experts from a config and from a model in memory: fields by any of their names, every router's own way."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmprune.errors import ModelError
from llmprune.models.config import made_of
from llmprune.models.expert_surgery import config_with_experts, cut_model_experts, expert_layout
from llmprune.models.resident import model_decoder
from llmprune.models.unchosen import unchosen
from llmprune.stages.output.verification import verify_model
from tests.zoo import tiny_config

# Biases beside the router, in it, with a dimension more; a router of two modules; infinities in the config.
TYPES = ("afmoe", "ernie4_5_moe", "glm4_moe", "gpt_oss", "granitemoehybrid", "hunyuan_v1_moe", "lfm2_moe", "phimoe")


def tiny(model_type: str, **changes: object):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type, **changes), dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
        for name, buffer in model.named_buffers():
            if "bias" in name:  # corrections that decide
                buffer.copy_(torch.randn_like(buffer))
    return model


@pytest.mark.parametrize("model_type", TYPES)
def test_what_is_left_computes_what_the_model_does_without_these_experts(model_type):
    model = tiny(model_type)
    layout = expert_layout(model, model.config)
    removed = {block: (block % 4,) for block in layout.blocks}
    kept = {block: [expert for expert in range(4) if expert not in gone] for block, gone in removed.items()}
    cut = cut_model_experts(model, kept, before=4)
    verify_model(model_decoder(model), cut, experts=removed)
    assert expert_layout(cut, cut.config).count == 3
    assert expert_layout(cut, cut.config).per_token == layout.per_token


def test_a_router_that_may_not_choose_experts_does_not():
    model = tiny("glm4_moe")
    block = model.model.layers[2]
    hidden = torch.randn(1, 40, 32)
    seen = []
    block.mlp.experts.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    before = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    with torch.no_grad():
        block.mlp(hidden)
        with unchosen(block, [0, 3]):
            block.mlp(hidden)
        block.mlp(hidden)
    assert set(seen[0].unique().tolist()) >= {0, 3}  # which these corrections favour
    assert set(seen[1].unique().tolist()) == {1, 2}
    assert torch.equal(seen[0], seen[2])
    assert all(torch.equal(tensor, before[name]) for name, tensor in block.state_dict().items())


def test_a_config_keeps_the_name_that_its_file_has_for_the_number_of_experts():
    config = tiny_config("qwen3_moe")
    raw = json.loads(config.to_json_string())
    assert config_with_experts(raw, config, before=4, left=3)["num_local_experts"] == 3
    old = {"num_experts": raw.pop("num_local_experts"), **raw}
    cut = config_with_experts(old, config, before=4, left=3)
    assert cut["num_experts"] == 3
    assert "num_local_experts" not in cut
    assert made_of(cut, type(config)).num_experts == 3


def test_the_text_part_of_a_multimodal_config_is_the_one_that_is_changed():
    config = tiny_config("qwen4_exp")
    cut = config_with_experts(json.loads(config.to_json_string()), config, before=4, left=2)
    assert cut["text_config"]["num_experts"] == 2
    assert cut["vision_config"] == json.loads(config.to_json_string())["vision_config"]


@pytest.mark.parametrize(
    ("model_type", "match"),
    [
        ("llama", "has no experts"),
        ("llama4_text", "has no experts that llmprune can tell apart"),
    ],
)
def test_a_model_whose_experts_cannot_be_told_apart_is_refused(model_type, match):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny_config(model_type))
    with pytest.raises(ModelError, match=match):
        expert_layout(model, model.config)


def test_a_router_with_other_rows_than_experts_is_refused():
    model = tiny("inkling_text")
    kept = {block: [0, 1, 2] for block in expert_layout(model, model.config).blocks}
    with pytest.raises(ModelError, match=r"gate\.weight has shape \(6, 32\), and with 3 experts it would be \(5, 32\)"):
        cut_model_experts(model, kept, before=4)
