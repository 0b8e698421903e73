"""Every causal-LM type of transformers runs block by block as ``from_pretrained`` has it, or is refused before work.

Each of them has a tiny model, or a stated reason why it has none.
"""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmprune.errors import UserError
from llmprune.models.loading import load_whole, open_decoder
from tests.tiny_models import random_tokens
from tests.wrapped_models import WRAPPED, save_wrapped
from tests.zoo import CAUSAL_LM_TYPES, ENCODERS, NOT_MADE, tiny_config

CPU = torch.device("cpu")
TOKENS = random_tokens(2, 24)
# Blocks that hand on more than one stream of hidden states, share weights, or are no list that is run once in order.
NO_CHAINS = {
    "blt", "cpmant", "deepseek_v4", "gemma3n_text", "hrm_text", "hy_v4", "inkling2_text", "mllama", "prophetnet",
    "reformer", "xlm", "xlnet", "zamba", "zamba2", "zaya",
}  # fmt: skip
NOT_IN_HALF_PRECISION = {"xlstm"}  # transformers itself mixes dtypes there


def assert_same_model(directory: Path, dtype: torch.dtype) -> None:
    decoder = open_decoder(directory, device=CPU, dtype=dtype)
    with torch.inference_mode():
        hidden = decoder.runner.embed(TOKENS)
        for block, call in enumerate(decoder.runner.calls(TOKENS)):
            with decoder.block(block):
                hidden = decoder.runner.forward_block(block, hidden, call)
        found = decoder.runner.logits(hidden)
        expected = load_whole(directory, device=CPU, dtype=dtype)(input_ids=TOKENS, use_cache=False).logits
    assert expected.isfinite().all()
    assert torch.equal(found, expected)


def save_random(directory: Path, model_type: str, **changes: object) -> torch.dtype:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type, **changes), dtype=torch.float32)
    assert 1000 < model.num_parameters() < 20_000_000
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    dtype = torch.float32 if model_type in NOT_IN_HALF_PRECISION else torch.bfloat16
    model.to(dtype).save_pretrained(directory)
    return dtype


@pytest.mark.parametrize("model_type", NOT_MADE)
def test_a_type_without_a_tiny_model_is_none_that_transformers_makes(model_type):
    assert model_type in CAUSAL_LM_TYPES
    with pytest.raises(Exception):  # noqa: B017 - whatever it is that transformers trips over
        AutoModelForCausalLM.from_config(tiny_config(model_type))


@pytest.mark.parametrize("model_type", [name for name in CAUSAL_LM_TYPES if name not in NOT_MADE])
def test_every_logit_is_the_same_to_the_last_bit(tmp_path, model_type):
    dtype = save_random(tmp_path, model_type)
    if model_type in ENCODERS | NO_CHAINS:
        with pytest.raises(UserError, match="see the ones after" if model_type in ENCODERS else None):
            open_decoder(tmp_path, device=CPU)
    else:
        assert_same_model(tmp_path, dtype)


@pytest.mark.parametrize("model_type", sorted(ENCODERS))
def test_an_encoder_type_whose_config_makes_it_a_decoder(tmp_path, model_type):
    assert_same_model(tmp_path, save_random(tmp_path, model_type, is_decoder=True))


@pytest.mark.parametrize("family", WRAPPED)
def test_a_wrapped_language_model_reads_text_as_the_whole_model_does(tmp_path, family):
    assert_same_model(save_wrapped(family, tmp_path), torch.bfloat16)
