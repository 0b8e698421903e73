"""Ranking from Python: round by round, in memory, from files and in a run, with the numbers of the command."""

import math

import pytest
import torch

import llmprune
from llmprune.artifacts.records.importance import Importance
from llmprune.choices import Metric
from llmprune.errors import ArtifactError, ModelError, TargetError
from llmprune.stages.block_search import RedundancySettings, verify_redundancy
from llmprune.stages.calibration import calibrate_on
from tests.reference_search import naive_search
from tests.tiny_models import DEPTH, tiny_model


@pytest.fixture(scope="module")
def windows(tokens):
    return llmprune.calibration_windows("", tokens)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_losses_are_those_of_skipping_blocks_in_whole_forward_passes(family, loaded, windows):
    model = loaded(family)
    ranking = llmprune.rank_blocks(model, windows, search="exhaustive", target=2)
    expected = naive_search(model, windows.tokens, count=2, protected=(0, DEPTH - 1))
    for found, losses in zip(ranking, expected, strict=True):
        assert {candidate.block for candidate in found.candidates} == losses.keys()
        assert found.block == min(losses, key=losses.get)
        for candidate in found.candidates:
            assert math.isclose(candidate.loss, losses[candidate.block], rel_tol=1e-5)


@pytest.mark.parametrize(
    ("metric", "heal"), [("sleb", False), ("sleb", True), ("block-influence", False), ("angular", False)]
)
def test_memory_files_and_the_command_agree(metric, heal, loaded, checkpoint, windows, tmp_path, workspace):
    directory = checkpoint("llama")
    space = workspace(directory)
    calibrate_on(space, windows)
    expected = verify_redundancy(space, RedundancySettings("3", metric=Metric(metric), heal=heal))
    in_memory, on_disk, kept = (
        llmprune.rank_blocks(model, windows, metric=metric, target=3, heal=heal, **where)
        for model, where in ((loaded("llama"), {}), (directory, {}), (str(directory), {"run": tmp_path / "run"}))
    )
    for ranking in (in_memory, on_disk, kept):
        rounds = list(ranking)
        assert ranking.order == expected.order
        assert ranking.removal(ranking.order).search_heals == heal
        assert ranking.dense_loss == pytest.approx(expected.dense_loss, rel=1e-6)
        if metric == "sleb":
            assert [decided.loss for decided in rounds] == [decided.loss for decided in expected.rounds]
        else:
            assert [decided.score for decided in rounds] == [expected.scores[block] for block in expected.order]


def test_iterating_goes_on_where_it_stopped(loaded, windows):
    ranking = llmprune.rank_blocks(loaded("llama"), windows)
    assert ranking.rounds == ()
    assert ranking.dense_loss is None
    first = next(ranking)
    for decided in ranking:
        assert decided.block != first.block
        break
    rest = list(ranking)
    assert ranking.rounds[0] == first
    assert len(ranking.rounds) == 2 + len(rest) == DEPTH - 3  # two ends are protected, and one block must be left
    assert list(ranking) == []


def test_first_decides_what_is_missing(loaded, windows):
    ranking = llmprune.rank_blocks(loaded("llama"), windows)
    assert ranking.first("20%") == ranking.order
    assert len(ranking.first(0.5)) == 3
    assert ranking.first(2) == ranking.order[:2]


def test_a_run_keeps_every_round_and_gives_it_back(checkpoint, windows, tmp_path):
    run = tmp_path / "run"
    ranking = llmprune.rank_blocks(checkpoint("llama"), windows, run=run)
    decided = [next(ranking), next(ranking)]
    assert Importance.read(run / "importance.json").order == ranking.order
    again = llmprune.rank_blocks(checkpoint("llama"), run=run)  # with the windows of the run
    assert [next(again), next(again)] == decided
    assert len(again.first(3)) == len(Importance.read(run / "importance.json").order) == 3
    with pytest.raises(ArtifactError, match="other settings"):
        next(llmprune.rank_blocks(checkpoint("llama"), windows.tokens[:6], run=run))


def test_a_model_is_left_as_it_was(windows):
    model = tiny_model("llama").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    next(llmprune.rank_blocks(model, windows))
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert "forward" not in vars(model.model.layers[0])


def test_a_ranking_prints_as_a_table(loaded, windows):
    ranking = llmprune.rank_blocks(loaded("llama"), windows)
    assert repr(ranking) == "0 of 6 blocks ranked by sleb"
    decided = next(ranking)
    title, header, dense, row = repr(ranking).splitlines()
    assert title == "1 of 6 blocks ranked by sleb, on 12 windows of 32 tokens of tokens"
    assert header.split() == ["round", "block", "loss", "perplexity"]
    assert dense.split() == ["dense", f"{ranking.dense_loss:.4f}", f"{math.exp(ranking.dense_loss):.2f}"]
    assert row.split() == ["1", str(decided.block), f"{decided.loss:.4f}", f"{math.exp(decided.loss):.2f}"]
    assert str(decided).startswith(f"block   {decided.block} goes: loss {decided.loss:.4f} nats/token, 4 candidates")


def test_a_score_prints_without_losses(loaded, windows):
    ranking = llmprune.rank_blocks(loaded("llama"), windows, metric="block-influence", target=1)
    (decided,) = ranking
    assert str(decided) == f"block   {decided.block} goes: score {decided.score:.4g}"
    assert repr(ranking).splitlines()[1].split() == ["round", "block", "score"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"target": "90%"}, "lower the target"),
        ({"target": 4}, "lower the target"),
        ({"metric": "angular"}, "`target=6`"),
        ({"metric": "taylor"}, "`metric=taylor` is none of sleb, block-influence, angular"),
        ({"search": "greedy"}, "`search=greedy` is none of eliminate, exhaustive"),
        ({"protect_first": -1}, "protect"),
        ({"device": "cpu"}, "`device=cpu` is about a model on disk"),
        ({"run": "a-run"}, "`run=a-run` is about a model on disk"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, words, loaded, windows):
    with pytest.raises(TargetError, match=words):
        llmprune.rank_blocks(loaded("llama"), windows, **arguments)


def test_windows_are_needed_and_must_fit(loaded):
    with pytest.raises(TargetError, match="`windows`"):
        llmprune.rank_blocks(loaded("llama"))
    with pytest.raises(TargetError, match="128 positions"):
        llmprune.rank_blocks(loaded("llama"), torch.zeros(2, 200, dtype=torch.int64))


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_tokens_without_an_embedding_are_refused(place, loaded, checkpoint, tmp_path):
    model = loaded("llama") if place == "memory" else checkpoint("llama")
    beyond = torch.full((2, 16), 10_000)
    with pytest.raises(ModelError, match="has token 10000, and the model has embeddings for"):
        llmprune.rank_blocks(model, beyond)
    with pytest.raises(ModelError, match="has token 10000, and the model has embeddings for"):
        llmprune.prune_weights(model, beyond, sparsity=0.5)
    if place == "disk":
        with pytest.raises(TargetError, match="positions"):
            llmprune.prune_weights(model, torch.zeros(2, 500, dtype=torch.int64), sparsity=0.5, out=tmp_path / "out")


def test_the_order_of_windows_in_a_run_is_the_runs(checkpoint, windows, tmp_path):
    with pytest.raises(TargetError, match="`seed`"):
        llmprune.rank_blocks(checkpoint("llama"), windows, seed=3, run=tmp_path / "run")


def test_a_ranking_of_one_run_of_blocks_has_no_shorter_one(loaded, windows):
    ranking = llmprune.rank_blocks(loaded("llama"), windows, metric="angular", target=3)
    with pytest.raises(TargetError, match="`target=2`"):
        ranking.first(2)
    assert len(ranking.first(3)) == 3
