"""Plain transformers loads a pruned checkpoint with nothing missing, and every attention kernel computes the same."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.interchange.conftest import REMOVED
from tests.tiny import NUM_BLOCKS


@pytest.fixture(params=["shorter", "sparse"])
def pruned(request):
    return request.getfixturevalue(request.param)


def load(directory, **options):
    model, info = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True, **options)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def logits_by_hand(model, sparse, tokens):
    """Of the dense model with the removed blocks taken out, and the pruned weights put in where there are any."""
    dense = load(model)
    kept = [block for index, block in enumerate(dense.model.layers) if index not in REMOVED]
    dense.model.layers = torch.nn.ModuleList(kept)
    if sparse is not None:
        weights = load_file(sparse / "model.safetensors")
        dense.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]})
    with torch.no_grad():
        return dense(tokens, use_cache=False).logits


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits_are_those_of_the_cut_model_with_either_attention(attention, pruned, sparse, model, tokens):
    loaded = load(pruned, attn_implementation=attention)
    assert loaded.config._attn_implementation == attention
    assert len(loaded.model.layers) == NUM_BLOCKS - len(REMOVED)
    expected = logits_by_hand(model, pruned if pruned == sparse else None, tokens)
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_generation_is_the_same_with_and_without_the_cache(attention, pruned, tokens):
    loaded = load(pruned, attn_implementation=attention)
    length = {"max_new_tokens": 20, "min_new_tokens": 20}  # random weights may end a text anywhere
    options = {"attention_mask": torch.ones_like(tokens), "do_sample": False, "pad_token_id": 0, **length}
    cached, plain = (loaded.generate(tokens, **options, use_cache=use_cache) for use_cache in (True, False))
    assert torch.equal(cached, plain)
    assert cached.shape == (2, 44)


def test_it_writes_with_the_tokenizer_and_the_settings_of_the_source(pruned):
    tokenizer = AutoTokenizer.from_pretrained(pruned)
    model = load(pruned)
    encoded = tokenizer("the sea", return_tensors="pt", return_token_type_ids=False)
    written = model.generate(**encoded, do_sample=False, pad_token_id=0)
    assert written.shape[1] - encoded.input_ids.shape[1] <= 7  # the source's generation config says so
    assert tokenizer.decode(written[0]).startswith("the sea")
    assert json.loads((pruned / "generation_config.json").read_text())["max_new_tokens"] == 7
