"""Token losses, perplexity and the search's evaluator against one plain forward pass."""

import pytest
import torch

from llmprune.algorithms.blocks.search import forked_losses
from llmprune.evaluation import losses as losses_module
from llmprune.evaluation.losses import token_losses
from llmprune.evaluation.perplexity import streamed_window_losses, window_losses
from llmprune.models.anatomy import find_blocks
from llmprune.models.capture import BlockRunner
from llmprune.models.loading import open_decoder
from llmprune.stages.block_search.evaluator import WindowEvaluator
from tests.reference_search import baseline_losses, skipped_loss
from tests.tiny_models import HIDDEN, POSITIONS, random_tokens, tiny_model


def plain_losses(model, tokens):
    """(windows, seq_len - 1), from the logits of one forward pass."""
    with torch.no_grad():
        log_probabilities = model(tokens).logits.double().log_softmax(-1)
    return -log_probabilities[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]


def leaving_states(family, tokens):
    model = tiny_model(family)
    runner = BlockRunner(model, find_blocks(model, model.config)[1])
    runner.learn_returned(tokens[:1, :2])
    hidden = runner.embed(tokens)
    for block, call in enumerate(runner.calls(tokens)):
        hidden = runner.forward_block(block, hidden, call)
    return model, runner, hidden


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt-projected", "gpt2"])
@pytest.mark.parametrize("shape", [(1, 2), (3, 17), (20, POSITIONS)])
def test_token_losses_are_those_of_a_plain_forward_pass(family, shape):
    tokens = random_tokens(*shape)
    model, runner, hidden = leaving_states(family, tokens)
    found = token_losses(runner, hidden, tokens)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), plain_losses(model, tokens), atol=2e-5, rtol=0)


def test_logits_never_exist_for_more_positions_than_allowed(monkeypatch):
    tokens = random_tokens(6, 60)
    model, runner, hidden = leaving_states("llama", tokens)
    monkeypatch.setattr(losses_module, "LOGITS_BYTES", 20 * 4 * 128)
    lengths = []
    model.lm_head.register_forward_hook(lambda module, args, output: lengths.append(output.shape[1]))
    token_losses(runner, hidden, tokens)
    assert max(lengths) == 20
    assert sum(lengths) == 6 * 59


@pytest.mark.parametrize("batch_tokens", [1, 50, 10_000])
def test_perplexity_is_exp_of_the_mean_cross_entropy(batch_tokens):
    tokens, done = random_tokens(5, 20), []
    model = tiny_model("gemma3")
    found = window_losses(model, tokens, batch_tokens=batch_tokens, on_windows=done.append)
    torch.testing.assert_close(torch.tensor(found).double(), plain_losses(model, tokens).mean(dim=1), atol=1e-5, rtol=0)
    assert sum(found) / 5 == pytest.approx(skipped_loss(model, tokens, ()), rel=1e-5)
    assert sum(done) == 5


@pytest.mark.parametrize(("batch_tokens", "chunk_windows"), [(1, 1), (40, 1), (40, 3), (40, 4), (10_000, 2)])
def test_perplexity_block_by_block_is_the_same_to_the_last_bit(batch_tokens, chunk_windows, checkpoint):
    tokens, done, opened = random_tokens(5, 20), [], []
    decoder = open_decoder(checkpoint("gemma3"), device=torch.device("cpu"))
    block = decoder.block
    decoder.block = lambda index: opened.append(index) or block(index)
    found = streamed_window_losses(
        decoder, tokens, batch_tokens=batch_tokens, chunk_windows=chunk_windows, on_windows=done.append
    )
    assert found == window_losses(tiny_model("gemma3"), tokens, batch_tokens=batch_tokens)
    assert sum(done) == 5
    batch = max(1, batch_tokens // 20)
    chunks = -(-5 // max(batch, chunk_windows // batch * batch))
    assert opened == [*range(len(decoder.blocks))] * chunks  # each block is read once for every chunk


def test_window_sums_are_sums_of_token_losses(checkpoint):
    tokens = random_tokens(3, 20)
    decoder = open_decoder(checkpoint("llama"), device=torch.device("cpu"))
    evaluator = WindowEvaluator(decoder, tokens, batch_size=2)
    found = baseline_losses(evaluator, range(3), remaining=range(evaluator.num_blocks))
    assert found.tokens == 19
    assert found.sums.dtype == torch.float64
    torch.testing.assert_close(found.sums, plain_losses(tiny_model("llama"), tokens).sum(1)[None], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("batch_size", "options", "left", "windows"),
    [
        (3, {}, 9, 9),
        (2, {"chunk_windows": 5}, 9, 4),
        (2, {"chunk_windows": 5}, 5, 5),
        (4, {"chunk_windows": 2}, 9, 2),
        (2, {"state_bytes": 5}, 9, 4),
        (2, {"state_bytes": 5}, 5, 5),
        (2, {"state_bytes": 4}, 9, 4),
        (2, {"state_bytes": 0}, 9, 2),
        (2, {"state_bytes": 0}, 1, 1),
        (3, {"state_bytes": 1}, 9, 3),
    ],
)
def test_a_chunk_is_all_that_is_left_or_whole_batches_and_one_at_least(checkpoint, batch_size, options, left, windows):
    decoder = open_decoder(checkpoint("llama"), device=torch.device("cpu"))
    if "state_bytes" in options:  # in windows of three states
        options = {"state_bytes": options["state_bytes"] * 3 * 4 * HIDDEN * 4}
    evaluator = WindowEvaluator(decoder, random_tokens(9, 4), batch_size=batch_size, **options)
    assert evaluator.fitting(3, left) == windows


def test_no_number_depends_on_the_size_of_chunks(checkpoint):
    tokens = random_tokens(7, 4)
    decoder = open_decoder(checkpoint("llama"), device=torch.device("cpu"))
    evaluator = WindowEvaluator(decoder, tokens, batch_size=3)
    whole = forked_losses(evaluator, range(7), remaining=range(6), candidates=[1, 3, 4]).sums
    parts = [
        forked_losses(evaluator, part, remaining=range(6), candidates=[1, 3, 4]).sums
        for part in (range(3), range(3, 6), range(6, 7))
    ]
    assert torch.equal(torch.cat(parts, 1), whole)
    states = torch.cat([evaluator.entering(range(4)), evaluator.entering(range(4, 7))])
    assert torch.equal(states, decoder.runner.embed(tokens))
