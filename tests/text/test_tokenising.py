"""A long text in pieces gives the tokens that it gives in one piece."""

import random

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from llmprune.text import tokenising
from llmprune.text.tokenising import token_ids

WORDS = ["sea", "island", "wide", "Überfahrt", "日本語", "🌊", "\n\n", "  ", "don't", "3.14"]


def _made(backend: Tokenizer, **names: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **names)


def _bytes() -> PreTrainedTokenizerFast:
    """As GPT-2's: a character may be several tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([" ".join(WORDS) * 9], trainer)
    return _made(backend)


def _pieces() -> PreTrainedTokenizerFast:
    """As Llama 2's: nothing parts words, and a text begins as if behind a space."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>"], show_progress=False)
    backend.train_from_iterator(WORDS * 5, trainer)
    return _made(backend, unk_token="<unk>")


@pytest.fixture(params=[_bytes, _pieces], ids=["bytes", "pieces"])
def tokenizer(request):
    return request.param()


@pytest.fixture
def calls(monkeypatch, tokenizer):
    """How many characters the tokenizer was given at a time."""
    monkeypatch.setattr(tokenising, "_PIECE", 300)
    monkeypatch.setattr(tokenising, "_OVERLAP", 80)
    given, real = [], type(tokenizer).__call__

    def noted(self, text, **how):
        given.append(len(text))
        return real(self, text, **how)

    monkeypatch.setattr(type(tokenizer), "__call__", noted)
    return given


@pytest.mark.parametrize("seed", range(8))
def test_the_tokens_are_those_of_one_piece(seed, tokenizer, calls):
    chooser = random.Random(seed)
    text = " ".join(chooser.choices(WORDS, k=900))
    expected = tokenizer(text, add_special_tokens=False)["input_ids"]
    calls.clear()
    assert token_ids(tokenizer, text).tolist() == expected
    assert max(calls) == 300
    assert len(calls) > 10


def test_what_no_two_pieces_agree_on_is_cut_in_one_piece(calls, tokenizer):
    text = "a" * 137 + "ab" * 2_000 + "sea" * 99
    expected = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert token_ids(tokenizer, text).tolist() == expected


def test_a_short_text_is_never_cut(calls, tokenizer):
    token_ids(tokenizer, "sea " * 150)
    assert calls == [600]
