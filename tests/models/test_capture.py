"""Running blocks one by one, and leaving a model as it was found."""

import pytest
import torch
from torch import nn

from llmprune.models.anatomy import find_blocks
from llmprune.models.capture import BlockRunner, bypassed, relayed
from tests.reference_search import skipped_logits
from tests.tiny_models import DEPTH, HIDDEN, random_tokens, tiny_model

TOKENS = random_tokens(3, 20)


def opened(family: str):
    model = tiny_model(family)
    _, blocks = find_blocks(model, model.config)
    runner = BlockRunner(model, blocks)
    runner.learn_returned(TOKENS[:1, :2])
    return model, blocks, runner


def run_blocks(runner, tokens, kept):
    hidden, calls = runner.embed(tokens), runner.calls(tokens)
    for block in kept:
        hidden = runner.forward_block(block, hidden, calls[block])
    return runner.logits(hidden)


def test_relayed_blocks_get_their_own_forward_back_even_after_an_error():
    linear = nn.Linear(2, 2)
    with pytest.raises(KeyError), relayed([linear], [lambda x: x + 1]):
        assert linear(torch.zeros(1, 2)).tolist() == [[1.0, 1.0]]
        raise KeyError
    assert "forward" not in vars(linear)


def test_what_another_library_put_in_place_of_forward_is_there_again_afterwards():
    linear = nn.Linear(2, 2)
    linear.forward = lambda x: x + 2
    with relayed([linear], [lambda x: x + 1]):
        assert linear(torch.zeros(1)).item() == 1.0
    assert linear(torch.zeros(1)).item() == 2.0


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "falcon-alibi"])
def test_running_leaves_no_trace_in_the_model(family):
    model, blocks, runner = opened(family)
    with torch.no_grad():
        before = model(TOKENS).logits
        run_blocks(runner, TOKENS, range(DEPTH))
        with bypassed(blocks, [2], runner.returned):
            assert "forward" in vars(blocks[2])
        assert not any("forward" in vars(block) for block in blocks)
        assert torch.equal(model(TOKENS).logits, before)


@pytest.mark.parametrize("family", ["mistral", "gemma3", "bloom", "opt-projected", "mixtral"])
def test_leaving_blocks_out_of_the_walk_is_skipping_them(family):
    model, _, runner = opened(family)
    for skipped in ([], [0], [DEPTH - 1], [1, 2, 4]):
        kept = [block for block in range(DEPTH) if block not in skipped]
        expected = skipped_logits(model, TOKENS, skipped)
        torch.testing.assert_close(run_blocks(runner, TOKENS, kept), expected, atol=1e-5, rtol=0)


def test_embedding_and_calls_run_no_block():
    _, blocks, runner = opened("gemma3")
    ran = []
    for block in blocks:
        block.self_attn.register_forward_hook(lambda *_: ran.append(1))
    assert runner.embed(TOKENS).shape == (3, 20, HIDDEN)
    calls = runner.calls(TOKENS)
    assert len(calls) == DEPTH
    runner.logits(torch.zeros(1, 2, HIDDEN))
    assert ran == []
    runner.forward_block(0, runner.embed(TOKENS), calls[0])
    assert ran == [1]


def test_each_block_is_called_with_what_its_own_kind_needs():
    _, _, runner = opened("gemma3")
    sliding, full = (runner.calls(TOKENS)[block].kwargs for block in (0, 2))
    assert sliding["attention_mask"] is not None
    ours, theirs = (kwargs["position_embeddings"][0] for kwargs in (sliding, full))
    assert not torch.equal(ours, theirs), "sliding and full blocks have rotary tables of their own"


def test_logits_of_a_slice_are_a_slice_of_the_logits():
    _, _, runner = opened("gemma2")
    hidden = torch.randn(2, 9, HIDDEN, generator=torch.Generator().manual_seed(0))
    whole = runner.logits(hidden)
    torch.testing.assert_close(runner.logits(hidden[1:, 4:7]), whole[1:, 4:7], atol=1e-6, rtol=0)
