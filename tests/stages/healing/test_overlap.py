"""How much of what is held back was seen already."""

import pytest
import torch

from llmprune.stages.healing.overlap import seen_share
from tests.tiny_models import random_tokens


def test_other_text_shares_nothing():
    assert seen_share(random_tokens(3, 64, seed=1), random_tokens(9, 64)) == 0


def test_the_same_text_is_seen_wherever_it_begins():
    text = random_tokens(1, 400)[0]
    solved_on = torch.stack([text[:128], text[200:328]])
    assert seen_share(text[None, 210:274], solved_on) == 1
    assert seen_share(text[None, 96:224], solved_on) == pytest.approx(1 / 97)  # of 97 spans of 32 only the first
    assert seen_share(text[None, 328:], solved_on) == 0


def test_windows_shorter_than_a_span_are_compared_whole():
    tokens = random_tokens(4, 8)
    assert seen_share(tokens[:2], tokens[1:]) == 0.5
