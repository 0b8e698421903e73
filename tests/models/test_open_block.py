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
        if ffn is None:
            pytest.skip("its FFN is of experts")
        adding = [path for (path, *_) in groups if block.adds_before_ffn(path, ffn, hidden, call)]
        assert block.adds_ffn(ffn, hidden, call) == (family not in NORMED)
    silent = family not in (*NORMED, "llama4")  # whose experts go on adding when the FFN beside them is silent
    assert [path.split(".")[-1] in OUT for path in adding] == [True] * silent
