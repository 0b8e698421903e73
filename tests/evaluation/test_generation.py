"""Generation: the likeliest token every time, whatever a checkpoint's generation config asks for."""

import pytest
import torch
from transformers import GenerationConfig, StoppingCriteria

from llmprune.evaluation.generation import generate, plain_greedy_config, written_text_config
from llmprune.models.loading import load_whole

PROMPT = torch.tensor([[5, 9, 3], [7, 7, 7]])
TOKENS = 6


def likeliest(model, prompt, count):
    """The definition: one forward pass a token, no cache."""
    for _ in range(count):
        logits = model(input_ids=prompt, use_cache=False).logits[:, -1]
        prompt = torch.cat([prompt, logits.argmax(dim=-1, keepdim=True)], dim=1)
    return prompt[:, -count:]


@pytest.fixture
def model(checkpoint):
    return load_whole(checkpoint("llama"), device=torch.device("cpu"), dtype=torch.float32, trust_remote_code=False)


WISHES = {
    "contrastive search": {"penalty_alpha": 0.6, "top_k": 4},
    "beams": {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True},
    "several sequences": {"num_beams": 2, "num_return_sequences": 2},
    "sampling": {"do_sample": True, "temperature": 5.0},
    "penalties": {"repetition_penalty": 3.0, "no_repeat_ngram_size": 1},
    "stop strings": {"stop_strings": ["a"]},
    "no time": {"max_time": 0.0},
    "prompt lookup": {"prompt_lookup_num_tokens": 2},
    "a static cache": {"cache_implementation": "static"},
    "a structured output": {"return_dict_in_generate": True, "output_scores": True},
    "a length": {"max_length": 4, "min_length": 2},
    "another method": {"dola_layers": "low"},
    "guidance": {"guidance_scale": 3.0},
    "no cache": {"use_cache": False},
}


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("use_cache", [True, False])
def test_what_the_checkpoint_wishes_for_changes_nothing(model, wish, use_cache):
    wished = model.generation_config = GenerationConfig(**WISHES[wish])
    with torch.inference_mode():
        expected = likeliest(model, PROMPT, TOKENS)
    found = generate(model, PROMPT, plain_greedy_config(TOKENS, use_cache=use_cache))
    assert torch.equal(found, expected)
    assert model.generation_config is wished


def test_the_cache_is_used_whatever_the_checkpoint_says(model):
    """Speed is that of generation with the cache: after the prompt, a pass a token, of that token alone."""
    model.config.use_cache = False
    model.generation_config = GenerationConfig(use_cache=False)
    widths = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    generate(model, PROMPT, plain_greedy_config(TOKENS))
    assert widths == [PROMPT.shape[1]] + [1] * (TOKENS - 1)


def test_code_that_replaces_generation_is_not_measured(model):
    with torch.inference_mode():
        expected = likeliest(model, PROMPT, TOKENS)
    model.generate = lambda *_, **__: pytest.fail("custom code was called")
    assert torch.equal(generate(model, PROMPT, plain_greedy_config(TOKENS)), expected)


def test_no_token_is_suppressed_and_none_ends_a_sequence(model):
    with torch.inference_mode():
        expected = likeliest(model, PROMPT, TOKENS)
    everything = expected.unique().tolist()
    model.generation_config = GenerationConfig(eos_token_id=everything, suppress_tokens=everything)
    assert torch.equal(generate(model, PROMPT, plain_greedy_config(TOKENS)), expected)


def test_a_criterion_is_called_after_every_token(model):
    class Lengths(StoppingCriteria):
        def __init__(self):
            self.seen = []

        def __call__(self, input_ids, scores, **kwargs):
            self.seen.append(input_ids.shape[1])
            return torch.zeros(len(input_ids), dtype=torch.bool)

    lengths = Lengths()
    generate(model, PROMPT, plain_greedy_config(3), criteria=[lengths])
    assert lengths.seen == [4, 5, 6]


def test_a_text_ends_where_the_model_ends_texts(model):
    prompt = PROMPT[:1]
    with torch.inference_mode():
        expected = likeliest(model, prompt, TOKENS)[0]
    last = int(expected[2])
    ends = int((expected == last).nonzero()[0]) + 1
    model.generation_config = GenerationConfig(eos_token_id=[last], num_beams=3)
    text = generate(model, prompt, written_text_config(model, TOKENS, repetition_penalty=1.0))
    assert torch.equal(text[0], expected[:ends])


def test_a_repetition_penalty_is_the_only_one(model):
    """transformers' penalty: logits of tokens that are there already, divided where positive, else multiplied."""
    prompt, penalty = PROMPT[:1], 1.5
    model.generation_config = GenerationConfig(no_repeat_ngram_size=1, bad_words_ids=[[3]])
    expected = prompt
    with torch.inference_mode():
        for _ in range(TOKENS):
            logits = model(input_ids=expected, use_cache=False).logits[0, -1]
            seen = expected[0].unique()
            logits[seen] = torch.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
            expected = torch.cat([expected, logits.argmax()[None, None]], dim=1)
    text = generate(model, prompt, written_text_config(model, TOKENS, repetition_penalty=penalty))
    assert torch.equal(text[0], expected[0, prompt.shape[1] :])
