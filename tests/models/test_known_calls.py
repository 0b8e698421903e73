"""Arguments of blocks are the same whether they are kept or made anew."""

import pytest
import torch

from llmprune.models.anatomy import find_blocks
from llmprune.models.capture import BlockRunner, tensor_bytes
from llmprune.models.known_calls import KnownCalls
from tests.tiny_models import random_tokens, tiny_model

BATCHES = random_tokens(6, 20).split(2)


@pytest.fixture
def runner():
    model = tiny_model("gemma3")  # masks and rotary tables, of two kinds
    runner = BlockRunner(model, find_blocks(model, model.config)[1])
    runner.learn_returned(BATCHES[0][:1, :2])
    return runner


def made(runner, monkeypatch):
    """How many rows the model is asked about, call by call."""
    asked, calls = [], runner.calls
    monkeypatch.setattr(runner, "calls", lambda tokens: asked.append(len(tokens)) or calls(tokens))
    return asked


def test_a_batch_is_called_the_same_at_every_block(runner, monkeypatch):
    asked, known = made(runner, monkeypatch), KnownCalls(runner)
    for block in range(3):
        for place, tokens in enumerate(BATCHES):
            hidden = torch.randn(2, 20, runner.embed(tokens).shape[-1])
            kept, anew = known.at(place, tokens)[block], runner.entries(tokens)[block][1]
            assert kept.tokens is tokens
            assert torch.equal(runner.forward_block(block, hidden, kept), runner.forward_block(block, hidden, anew))
    assert asked == [2, 2, 2]


def test_what_the_limit_has_no_room_for_is_made_anew(runner, monkeypatch):
    size = tensor_bytes(runner.calls(BATCHES[0]))
    asked, known = made(runner, monkeypatch), KnownCalls(runner, limit=2 * size)
    for _ in range(4):
        for place, tokens in enumerate(BATCHES):
            assert known.at(place, tokens)[0].tokens is tokens
    assert len(asked) == 2 + 4
