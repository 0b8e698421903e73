"""Every causal-LM type of the installed transformers has a tiny model, or a stated reason why it has none."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.zoo import CAUSAL_LM_TYPES, NOT_MADE, tiny_config


@pytest.mark.parametrize("model_type", CAUSAL_LM_TYPES)
def test_a_tiny_model_of_every_type(model_type):
    if model_type in NOT_MADE:
        with pytest.raises(Exception):  # noqa: B017 - whatever it is that transformers trips over
            AutoModelForCausalLM.from_config(tiny_config(model_type))
        return
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny_config(model_type))
    assert 1000 < model.num_parameters() < 20_000_000
