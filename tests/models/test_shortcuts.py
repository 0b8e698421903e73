"""Parts of a block that need not run again are found by what they give, in every family, and passed by exactly."""

import pytest
import torch

from llmprune.models.loading import open_decoder
from llmprune.models.open_block import OpenBlock
from llmprune.models.shortcuts import Shortcut, find_shortcuts, passed_by
from tests.tiny_models import random_tokens

FOUND = {
    "llama": (Shortcut("self_attn.o_proj", "self_attn", 2), Shortcut("mlp.down_proj", "mlp")),
    "gpt2": (Shortcut("attn.c_proj", "attn", 2), Shortcut("mlp.c_proj", "mlp")),
    "opt": (Shortcut("self_attn.out_proj", "self_attn", 2), Shortcut("fc2", "fc2", silent=("fc1",))),
    # Its parts add the residual stream themselves.
    "bloom": (Shortcut("mlp.dense_4h_to_h", "mlp.dense_4h_to_h", silent=("mlp.dense_h_to_4h",)),),
    "mixtral": (Shortcut("self_attn.o_proj", "self_attn", 2),),
}


@pytest.mark.parametrize("family", FOUND)
def test_parts_that_give_what_their_last_layer_gives_are_passed_by(family, checkpoint):
    decoder = open_decoder(checkpoint(family), device=torch.device("cpu"), dtype=torch.float32)
    tokens = random_tokens(2, 16)
    hidden, call = decoder.runner.embed(tokens), decoder.runner.calls(tokens)[1]
    with decoder.block(1):
        block = OpenBlock(decoder, 1)
        groups, ffn = block.groups(hidden, call)
        found = find_shortcuts(block, [path for group in groups for path in group], ffn, hidden, call)
        assert found == FOUND[family]
        whole, ran = block.forward(hidden, call), []
        inputs, _ = block.inputs_of([one.layer for one in found], hidden, call)
        shape = {"fc2": (-1, hidden.shape[-1])}  # which OPT gives rows of tokens
        outputs = {
            one: block.give(one.layer, inputs[one.layer]).view(shape.get(one.layer, hidden.shape)) for one in found
        }
        for one in found:
            block.module.get_submodule(one.part).register_forward_hook(lambda *_: ran.append(1))
        with passed_by(block, outputs):
            assert torch.equal(block.forward(hidden, call), whole)
            assert len(ran) == len(found)  # the module is called, and its own forward is not


def test_a_part_that_gives_something_else_or_more_is_not_passed_by(checkpoint):
    decoder = open_decoder(checkpoint("llama"), device=torch.device("cpu"), dtype=torch.float32)
    tokens = random_tokens(1, 8)
    hidden, call = decoder.runner.embed(tokens), decoder.runner.calls(tokens)[1]
    with decoder.block(1):
        block = OpenBlock(decoder, 1)
        order = [path for group in block.groups(hidden, call)[0] for path in group]
        mlp = block.module.mlp
        once = mlp.forward
        mlp.forward = lambda x: once(x) * 1.0  # no longer the very tensor that the last layer gives
        assert [one.part for one in find_shortcuts(block, order, None, hidden, call)] == ["self_attn"]
        mlp.forward = once
        block.module.self_attn.register_forward_hook(lambda _m, _i, output: (output[0], hidden))
        assert [one.part for one in find_shortcuts(block, order, None, hidden, call)] == ["mlp"]
