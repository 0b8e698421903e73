"""Measuring from Python: models in memory give the command's perplexities."""

import pytest
import torch

import llmprune
from llmprune.errors import ModelError, TargetError
from tests.api.conftest import whole
from tests.tiny_models import random_tokens, tiny_model, tiny_tokenizer

TEXT = "w3 w4 w9 w27 w81 w40 w50 " * 200
QUICK = {"batch": 2, "gen": 3, "prompt": 4, "prefill": 8, "repeats": 2, "max_seconds": 0}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "words.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def cut(checkpoint, tmp_path_factory):
    """A checkpoint without a block."""
    return llmprune.remove_blocks(checkpoint("llama"), [2], out=tmp_path_factory.mktemp("cut") / "cut")


def test_memory_and_disk_give_the_same_perplexities(checkpoint, cut, loaded, text):
    options = {"ppl": text, "ppl_seq_len": 32, "speed": False}
    on_disk = llmprune.bench(cut.directory, checkpoint("llama"), **options)
    mixed = llmprune.bench(whole(cut.directory), checkpoint("llama"), **options)
    in_memory = llmprune.bench(whole(cut.directory), loaded("llama"), **options)
    for found in (mixed, in_memory):
        assert found.result.perplexity == on_disk.result.perplexity
        assert found["ppl"] == on_disk["ppl"]
        assert found["ppl_ratio"] == on_disk["ppl_ratio"]
        assert found["params_ratio"] == on_disk["params_ratio"]
    assert on_disk.path is None


def test_windows_that_are_at_hand_need_no_tokenizer(loaded):
    tokens = random_tokens(4, 32)
    found = llmprune.bench(tiny_model("llama"), ppl=tokens, speed=False)
    with torch.no_grad():
        logits = loaded("llama")(tokens).logits[:, :-1].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten()).exp()
    assert found["ppl"] == pytest.approx(expected.item(), rel=1e-5)


def test_speed_is_measured_of_models_in_memory(cut, loaded):
    dense = loaded("llama").train()
    try:
        found = llmprune.bench(whole(cut.directory), dense, ppl=None, **QUICK)
        assert dense.training
    finally:
        dense.eval()
    assert found["generation"] > 0
    assert found["prompt_ratio"] > 0
    assert found.result.model.load_seconds is None


def test_zeros_of_a_model_in_memory_are_counted(loaded, tokens):
    sparse = llmprune.prune_weights(loaded("llama"), tokens, pattern="2:4", method="magnitude")
    found = llmprune.bench(sparse, loaded("llama"), ppl=tokens, speed=False)
    pruned = sum(parameter.numel() for name, parameter in sparse.named_parameters() if "_proj" in name)
    assert found.result.model.sparsity.zeros == pruned // 2
    assert "of the stored weights are zero" in repr(found)


def test_a_run_keeps_the_result(checkpoint, text, tmp_path):
    found = llmprune.bench(checkpoint("llama"), ppl=text, ppl_seq_len=32, speed=False, run=tmp_path / "run")
    assert found.path.parent == tmp_path / "run" / "bench"
    (kept,) = llmprune.Run(tmp_path / "run").benchmarks
    assert kept.result == found.result


def test_it_prints_the_commands_table(cut, loaded, text):
    found = llmprune.bench(
        whole(cut.directory), loaded("llama"), ppl=text, ppl_seq_len=32, speed=False, tokenizer=tiny_tokenizer()
    )
    _, header, *rows = repr(found).splitlines()
    assert header.split() == ["dense", "pruned", "ratio"]
    assert any(row.split()[:3] == ["blocks", "6", "5"] for row in rows)
    assert any(row.startswith("perplexity") for row in rows)
    assert any(row.startswith("Perplexity: file words.txt, ") for row in rows)


def test_quick_measures_less(loaded, text):
    found = llmprune.bench(loaded("llama"), ppl=text, ppl_seq_len=8, speed=False, quick=True)
    assert found.result.perplexity[0].windows == 8


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"device": "cpu"}, TargetError, "`device=cpu` is about a model on disk"),
        ({"baseline": "bfloat16"}, ModelError, "do not compare"),
        ({"ppl": None, "speed": False}, TargetError, "nothing to measure"),
        ({"ppl": torch.zeros(2, 200).long(), "speed": False}, TargetError, "128 positions"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, error, words, loaded):
    if "baseline" in arguments:
        arguments = {"baseline": tiny_model("llama").to(torch.bfloat16)}
    with pytest.raises(error, match=words):
        llmprune.bench(loaded("llama"), **arguments)
