"""Which models can be run block by block: seen by trying, refused in words that say what is the matter."""

import pytest
import torch

from llmprune.errors import ModelError
from llmprune.models.loading import load_whole, open_decoder
from tests.reference_search import skipped_logits
from tests.zoo import DEPTH, FULL, SLIDING, save_zoo_model

CPU = torch.device("cpu")
TOKENS = torch.randint(3, 300, (2, 12), generator=torch.Generator().manual_seed(0))


REFUSED = [
    ("gemma3n_text", {}, r"Gemma3nForCausalLM keeps several residual streams.*\(4, 1, 3, 32\)"),
    ("deepseek_v4", {}, "DeepseekV4ForCausalLM keeps several residual streams"),
    ("hy_v4", {}, "HYV4ForCausalLM keeps several residual streams"),
    ("zamba", {}, "Blocks of ZambaForCausalLM share weights"),
    ("zamba2", {}, "Blocks of Zamba2ForCausalLM share weights"),
    ("zaya", {}, "Block 1 of ZayaForCausalLM computes with more than the hidden states"),
    (
        "glm_moe_dsa",
        {"indexer_types": ["full", "full", "shared", "full", "full", "full"]},
        "Block 2 of GlmMoeDsaForCausalLM computes with more than the hidden states",
    ),
    (
        "gemma4_text",
        {"num_kv_shared_layers": 2, "layer_types": [SLIDING, FULL] * 3},
        "Block 4 of Gemma4ForCausalLM computes with more than the hidden",
    ),
    ("xlnet", {}, r"XLNetLMHeadModel gives its blocks hidden states of shape \(3, 1, 32\)"),
    ("prophetnet", {}, r"ProphetNetForCausalLM gives its blocks hidden states of shape \(1, 9, 32\)"),
    ("cpmant", {}, r"CpmAntForCausalLM gives its blocks hidden states of shape \(1, 35, 32\)"),
    ("rwkv", {"num_hidden_layers": 12}, "changes the hidden states between its blocks 5 and 6"),
    ("mllama", {}, "MllamaForCausalLM runs block 4 before 3"),  # which is for images alone
    ("hrm_text", {}, "no list of 48 blocks"),
    ("bert", {"is_decoder": False}, "lets tokens see the ones after them"),
]


@pytest.mark.parametrize(("model_type", "changes", "words"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_is_no_chain_of_blocks_is_refused_as_what_it_is(model_type, changes, words, tmp_path):
    directory = save_zoo_model(tmp_path / "model", model_type, **changes)
    with pytest.raises(ModelError, match=words):
        open_decoder(directory, device=CPU)


# A tuple with None, a tuple with state that no one takes, a list, a choice of tokens that no block shares.
SEVERAL_VALUES = [
    ("bamba", {}),
    ("xlstm", {}),
    ("openai-gpt", {}),
    ("glm_moe_dsa", {"indexer_types": ["full"] * DEPTH}),
]


@pytest.mark.parametrize(("model_type", "changes"), SEVERAL_VALUES, ids=[row[0] for row in SEVERAL_VALUES])
def test_blocks_that_return_several_values_are_run_and_left_out_one_by_one(model_type, changes, tmp_path):
    directory = save_zoo_model(tmp_path / "model", model_type, **changes)
    decoder = open_decoder(directory, device=CPU)
    whole = load_whole(directory, device=CPU, dtype=torch.float32)
    calls = decoder.runner.calls(TOKENS)
    for skipped in ([], [2], [0, 5]):
        hidden = decoder.runner.embed(TOKENS)
        for block in range(DEPTH):
            if block not in skipped:
                with decoder.block(block):
                    hidden = decoder.runner.forward_block(block, hidden, calls[block])
        expected = skipped_logits(whole, TOKENS, skipped)
        torch.testing.assert_close(decoder.runner.logits(hidden), expected, atol=1e-5, rtol=0)
