"""Which layers of a block are used: its first tokens tell, unless some layer is used by later ones alone."""

import pytest
import torch
from torch.nn.functional import silu
from transformers import LlamaConfig, LlamaForCausalLM

from llmprune.models.open_block import FEW_TOKENS, OpenBlock
from llmprune.models.resident import model_decoder
from llmprune.stages.weight_pruning.selection import Selection
from llmprune.stages.weight_pruning.steps import choose_steps
from llmprune.stages.weight_pruning.streams import Batch

LENGTH = FEW_TOKENS + 8
LAYERS = {f"self_attn.{name}_proj" for name in "qkvo"} | {f"mlp.{name}_proj" for name in ("gate", "up", "down")}


@pytest.fixture
def decoder():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 32}
    torch.manual_seed(0)
    return model_decoder(LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4)).eval())


def steps_of(decoder, runs):
    """The steps of the only block, and how many tokens it was run on each time."""
    tokens = torch.randint(32, (1, LENGTH))
    window, few = (
        Batch(0, decoder.runner.calls(part)[0], decoder.runner.embed(part)) for part in (tokens, tokens[:, :FEW_TOKENS])
    )
    decoder.blocks[0].register_forward_pre_hook(lambda _, args: runs.append(args[0].shape[1]))
    with torch.inference_mode(), decoder.block(0):
        return choose_steps(OpenBlock(decoder, 0), window, few, Selection(), joint=False, dense=False)


def sending_up_the_tokens_from(start, mlp):
    def forward(hidden):
        inner = silu(mlp.gate_proj(hidden))
        inner[:, start:] *= mlp.up_proj(hidden[:, start:])
        return mlp.down_proj(inner)

    return forward


def test_the_first_tokens_suffice_where_they_use_every_layer(decoder):
    runs = []
    assert set(steps_of(decoder, runs).pruned) == LAYERS
    assert set(runs) == {FEW_TOKENS}


@pytest.mark.parametrize(("start", "unused"), [(FEW_TOKENS, ()), (LENGTH, ("mlp.up_proj",))])
def test_a_layer_that_later_tokens_use_is_pruned_and_one_that_none_uses_is_not(start, unused, decoder):
    mlp, runs = decoder.blocks[0].mlp, []
    mlp.forward = sending_up_the_tokens_from(start, mlp)
    steps = steps_of(decoder, runs)
    assert set(steps.pruned) == LAYERS - set(unused)
    assert steps.remarks == tuple(f"{path} was used by no token, and stays dense" for path in unused)
    assert LENGTH in runs
