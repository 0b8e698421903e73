"""What an open block says of itself: which layers' outputs go into the residual stream as they are."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llmprune.models.loading import open_decoder
from llmprune.models.open_block import OpenBlock
from tests.tiny_models import FAMILIES, random_tokens

# A norm between the attention (or the FFN) and the residual stream, or behind their sum.
NORMED = ("gemma2", "gemma3", "gemma3-multimodal", "gemma4", "opt-projected")
OUT = ("o_proj", "out_proj", "c_proj", "dense")  # what families call the last layer of their attention


@pytest.mark.parametrize("family", FAMILIES)
def test_the_attention_adds_to_the_blocks_input_unless_a_norm_is_between(family, checkpoint: Callable[[str], Path]):
    decoder = open_decoder(checkpoint(family), device=torch.device("cpu"))
    tokens = random_tokens(1, 24)
    hidden, call = decoder.runner.embed(tokens), decoder.runner.calls(tokens)[0]
    with torch.inference_mode(), decoder.block(0):
        block = OpenBlock(decoder, 0)
        groups, ffn = block.groups(hidden, call)
        assert (ffn is None) == (family == "mixtral")  # which has experts alone
        layers = [path for (path, *_) in groups if path not in block.experts()]
        adding = [path for path in layers if block.adds_before_ffn(path, ffn, hidden, call)]
        assert ffn is None or block.adds_ffn(ffn, hidden, call) == (family not in NORMED)
    silent = family not in (*NORMED, "llama4")  # whose experts go on adding when the FFN beside them is silent
    assert [path.split(".")[-1] in OUT for path in adding] == [True] * silent


# The layers that add to the residual stream: behind which the block ends, and before another module looks at the sum.
SIDE_BY_SIDE = {
    "gpt-neox": ["attention.dense", "mlp.dense_4h_to_h"],
    "falcon-rotary": ["self_attention.dense", "mlp.dense_4h_to_h"],
}
NO_LAYER_OF_EXPERTS = ("mixtral",)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layers_that_add_to_the_stream_are_found(family, checkpoint: Callable[[str], Path]):
    decoder = open_decoder(checkpoint(family), device=torch.device("cpu"))
    tokens = random_tokens(1, 24)
    hidden, call = decoder.runner.embed(tokens), decoder.runner.calls(tokens)[0]
    with torch.inference_mode(), decoder.block(0):
        block = OpenBlock(decoder, 0)
        before_end, before_others = block.adding(hidden, call)
        for path in (*before_end, *before_others):
            assert block.linears()[path].out_features == hidden.shape[-1]
        for path in before_end:  # twice its output is once more in the block's output
            given = block.layer(path)(block.input_of(path, hidden, call).float())
            output = block.forward(hidden, call)
            layer = block.layer(path)
            block.install({path: 2 * layer.weight}, {} if layer.bias is None else {path: 2 * layer.bias})
            torch.testing.assert_close(block.forward(hidden, call), output + given.view(output.shape))
            block.install({path: layer.weight}, {} if layer.bias is None else {path: layer.bias})
    if family in SIDE_BY_SIDE:
        assert (before_end, before_others) == (SIDE_BY_SIDE[family], [])
    elif family in NORMED:
        assert before_end == []
    else:
        assert len(before_end) == (family not in NO_LAYER_OF_EXPERTS)
        assert [path.split(".")[-1] in OUT for path in before_others] == [True]


@pytest.mark.parametrize(
    ("dtype", "tokens", "giant"), [(torch.bfloat16, 24, 3e3), (torch.float16, 24, 1e3), (torch.bfloat16, 2, 300)]
)
def test_a_few_giant_states_hide_no_layer_and_make_none_up(dtype, tokens, giant, checkpoint: Callable[[str], Path]):
    decoder = open_decoder(checkpoint("llama"), device=torch.device("cpu"), dtype=dtype)
    drawn = random_tokens(1, tokens)
    hidden, call = decoder.runner.embed(drawn), decoder.runner.calls(drawn)[0]
    # As at the first token of many models: what a layer gives disappears within its rounding.
    hidden = hidden * torch.where(torch.arange(tokens) == 0, giant, 1)[:, None].to(dtype)
    with torch.inference_mode(), decoder.block(0):
        block = OpenBlock(decoder, 0)
        assert block.adding(hidden, call) == (["mlp.down_proj"], ["self_attn.o_proj"])
        _, ffn = block.groups(hidden, call)
        assert block.adds_before_ffn("self_attn.o_proj", ffn, hidden, call)
        assert not block.adds_before_ffn("self_attn.q_proj", ffn, hidden, call)


def test_what_is_within_the_rounding_at_every_token_adds_nothing(checkpoint: Callable[[str], Path]):
    decoder = open_decoder(checkpoint("llama"), device=torch.device("cpu"), dtype=torch.bfloat16)
    drawn = random_tokens(1, 8)
    hidden, call = 1e5 * decoder.runner.embed(drawn), decoder.runner.calls(drawn)[0]
    with torch.inference_mode(), decoder.block(0):
        assert OpenBlock(decoder, 0).adding(hidden, call) == ([], [])


def test_earlier_parameters_are_put_back(checkpoint: Callable[[str], Path]):
    decoder = open_decoder(checkpoint("opt"), device=torch.device("cpu"))
    with decoder.block(0):
        block = OpenBlock(decoder, 0)
        was, layer = block.parameters("fc2"), block.layer("fc2")
        block.install({"fc2": torch.zeros_like(layer.weight)}, {"fc2": torch.ones(32)})
        assert not block.layer("fc2").weight.any() and block.layer("fc2").bias.all()
        block.put_back("fc2", was)
        assert torch.equal(block.layer("fc2").weight, layer.weight)
        assert torch.equal(block.layer("fc2").bias, layer.bias)
        assert block.bias_tensor("fc2") == "model.decoder.layers.0.fc2.bias"
