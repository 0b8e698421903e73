"""Greedy agreement and drafts: what the two models would write by themselves, told from one pass."""

import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmprune.artifacts.run import RunDirectory
from llmprune.errors import TargetError
from llmprune.evaluation.agreement import agreed_lengths, same_choices
from llmprune.models.compute import choose_compute
from llmprune.stages.benchmark import BenchSettings, bench
from llmprune.stages.block_removal import RemovalSettings, remove_blocks
from tests.tiny import Listener, save_tiny_llama

SETTINGS = BenchSettings(ppl=(), speed=False, agreement=4, prompt=6, gen=8, repeats=1, max_seconds=0)


@pytest.fixture
def pruned(workspace):
    return remove_blocks(workspace, RemovalSettings(blocks=(4,))).directory


def measure(run, settings, *, model=None, baseline=None):
    listener = Listener()
    options = {"settings": settings, "compute": choose_compute("cpu"), "progress": listener}
    result, _ = bench(
        run if isinstance(run, RunDirectory) else RunDirectory(run),
        model=model and str(model),
        baseline=baseline and str(baseline),
        **options,
    )
    return result, listener


def written(directory, prompts, new_tokens):
    """Greedy text from the definition, token by token and without a cache."""
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    tokens = prompts
    with torch.no_grad():
        for _ in range(new_tokens):
            tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], dim=1)
    return tokens


@pytest.mark.parametrize("from_text", [True, False])
def test_lengths_are_those_of_texts_that_both_models_write_by_themselves(workspace, pruned, model, text, from_text):
    settings = replace(SETTINGS, ppl=(str(text),) if from_text else (), ppl_seq_len=32, max_windows=9)
    result, _ = measure(workspace.run, settings)
    protocol = result.agreement
    assert (protocol.prompts, protocol.prompt_tokens, protocol.new_tokens) == (4, 6, 8)
    assert protocol.source == (text.name if from_text else "self")
    texts = torch.tensor(result.baseline.greedy)
    assert torch.equal(texts, written(model, texts[:, :6], 8))
    own = written(pruned, texts[:, :6], 8)
    assert result.model.agreement.lengths == tuple(agreed_lengths(own[:, 6:] == texts[:, 6:]).tolist())
    assert result.model.agreement.length.value == result.metrics["agreed_tokens"].value
    assert 0 < result.metrics["agreement"].value < 1
    for name, most in (("agreement", 1), ("agreed_tokens", 8)):
        low, high = result.metrics[name].interval
        assert 0 <= low <= result.metrics[name].value <= high <= most


def test_a_model_agrees_with_itself_and_a_share_counts_every_choice(model):
    one = AutoModelForCausalLM.from_pretrained(model).eval()
    texts = written(model, torch.arange(12).view(2, 6), 5)
    options = {"prompt_tokens": 6, "batch_size": 1, "on_prompts": lambda _: None}
    assert same_choices(one, texts, **options).all()
    texts[0, 8] = (texts[0, 8] + 1) % 50
    same = same_choices(one, texts, **options)
    assert not same[0, 2]
    assert agreed_lengths(same).tolist() == [2, 5]


def test_as_a_draft_it_writes_the_dense_models_text_and_its_tokens_are_counted(workspace, pruned, model):
    result, _ = measure(workspace.run, replace(SETTINGS, draft=True, fail_if=("draft_acceptance<0",)))
    draft = result.model.draft
    assert len(draft.alone.values) == len(draft.proposed) == 1  # no time for more
    assert 0 <= draft.accepted[0] <= draft.proposed[0]
    itself, _ = measure(workspace.run, replace(SETTINGS, draft=True), model=copied(model, pruned), baseline=model)
    assert itself.metrics["agreement"].value == 1.0
    assert itself.metrics["draft_acceptance"].value == 1.0


def copied(model, beside):
    """The same weights under another name."""
    return shutil.copytree(model, beside.parent / "same")


def test_what_cannot_be_compared_is_said(workspace, pruned, monkeypatch):
    monkeypatch.setattr("llmprune.models.compute.Compute.free_bytes", lambda _: 1000)
    settings = replace(SETTINGS, ppl=("auto",), ppl_seq_len=32, max_windows=1)
    _, listener = measure(workspace.run, replace(settings, draft=False))
    assert listener.heard("Greedy agreement is not measured")
    with pytest.raises(TargetError, match=r"GB are free; type no `draft`"):
        measure(workspace.run, replace(settings, draft=True))


def test_a_draft_needs_a_dense_model_and_prompts(run, tmp_path):
    alone = save_tiny_llama(tmp_path / "alone")
    with pytest.raises(TargetError, match=r"`draft`: there is no dense model .* `baseline=MODEL`"):
        measure(run, replace(SETTINGS, ppl=("auto",), max_windows=1, draft=True), model=alone)
    with pytest.raises(TargetError, match="type a number of prompts"):
        replace(SETTINGS, agreement=0, ppl=("auto",), draft=True)
