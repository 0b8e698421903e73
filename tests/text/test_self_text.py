"""Windows that a tiny model writes."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llmprune.errors import ModelError, NumericalError, TargetError
from llmprune.text.self_text import sample_self_text

BOS = 1


class Vocabulary:
    """What sample_self_text needs of a tokenizer."""

    all_special_ids = (0, BOS)

    def __init__(self, bos_token_id, *, tokens=1_002):
        self.bos_token_id, self._tokens = bos_token_id, tokens

    def __len__(self):
        return self._tokens


ADDING, PLAIN = Vocabulary(BOS), Vocabulary(None)


def tiny_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1_002,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.5,  # a peaked distribution, far from uniform
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def model():
    return tiny_model().train()


def test_windows_start_with_bos_and_the_seed_decides(model):
    seen = []
    options = {"num_windows": 5, "seq_len": 9, "batch_size": 2}
    one = sample_self_text(model, ADDING, **options, on_window=seen.append)
    torch.manual_seed(7)
    two = sample_self_text(model, ADDING, **options)
    other = sample_self_text(model, ADDING, **options, seed=1)
    assert one.tokens.shape == (5, 9)
    assert (one.tokens[:, 0] == BOS).all()
    assert one.fingerprint == two.fingerprint != other.fingerprint
    assert (one.bos, one.sampling, one.corpus_name, one.seed) == (True, "self", "self", 0)
    assert seen == [2, 4, 5]
    assert model.training  # left as it was


def test_without_bos_windows_start_with_ordinary_tokens(model):
    windows = sample_self_text(model, PLAIN, num_windows=20, seq_len=2, batch_size=20)
    assert not windows.bos
    assert len(set(windows.tokens[:, 0].tolist())) > 10
    assert not set(windows.tokens[:, 0].tolist()) & set(PLAIN.all_special_ids)


def test_tokens_follow_the_models_own_distribution(model):
    # 4,000 second tokens against softmax of the logits after BOS: total variation within sampling noise.
    windows = sample_self_text(model, ADDING, num_windows=4_000, seq_len=2, batch_size=4_000)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([[BOS]])).logits[0, -1].softmax(dim=-1)
    drawn = torch.bincount(windows.tokens[:, 1], minlength=len(expected)) / 4_000
    noise = (expected * (1 - expected) / 4_000).sqrt().sum() / 2
    assert (drawn - expected).abs().sum() / 2 < 1.2 * noise
    uniform = torch.full_like(expected, 1 / len(expected))
    assert (uniform - expected).abs().sum() / 2 > 2 * noise


def test_the_cache_changes_nothing(model):
    windows = sample_self_text(model, ADDING, num_windows=3, seq_len=12)
    generator = torch.Generator().manual_seed(0)
    slow = torch.full((3, 1), BOS)
    for _ in range(11):
        with torch.no_grad():
            weights = model(input_ids=slow, use_cache=False).logits[:, -1].float().softmax(dim=-1)
        slow = torch.cat([slow, torch.multinomial(weights, 1, generator=generator)], dim=1)
    assert windows.tokens.tolist() == slow.tolist()


@pytest.mark.parametrize("options", [{"num_windows": 0}, {"seq_len": 1}, {"batch_size": 0}])
def test_options_out_of_range(model, options):
    with pytest.raises(TargetError):
        sample_self_text(model, ADDING, **options)


def test_tokens_that_the_model_has_no_embeddings_for_begin_no_window(model):
    more = Vocabulary(None, tokens=5_000)
    windows = sample_self_text(model, more, num_windows=200, seq_len=2, batch_size=200)
    assert windows.tokens.max() < 1_002
    with pytest.raises(
        ModelError, match=r"BOS is token 1002, and the model has embeddings for 1,002 tokens, 0 to 1001"
    ):
        sample_self_text(model, Vocabulary(1_002), num_windows=1, seq_len=2)


def test_a_model_of_nans_is_reported():
    broken = tiny_model()
    torch.nn.init.constant_(broken.lm_head.weight, torch.nan)
    with pytest.raises(NumericalError, match="not finite"):
        sample_self_text(broken, ADDING, num_windows=1, seq_len=4)
