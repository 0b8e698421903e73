"""Which blocks a ranking names for a target, and which rankings are none."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from llmprune.artifacts.records.expert_importance import BlockExperts, ExpertImportance
from llmprune.artifacts.records.importance import (
    CandidateRecord,
    Importance,
    Refinement,
    RoundRecord,
    SearchHealing,
    SearchSettings,
    SwapRecord,
    check_blocks,
)
from llmprune.artifacts.records.provenance import CorpusIdentity, ModelIdentity
from llmprune.choices import ExpertMetric, Metric, Search
from llmprune.errors import ArtifactError

MODEL = ModelIdentity(name="a/model", fingerprint="f" * 64, model_type="llama", num_blocks=5, num_parameters=9)
OTHER = MODEL.model_copy(update={"name": "another", "fingerprint": "0" * 64, "num_blocks": 7})
CORPUS = CorpusIdentity(name="c4", origin="o", fingerprint="f")
SWAP = SwapRecord(taken_back=2, removed=3, loss_before=2.5, loss=2.25, kept=True, seconds=7)


def decided(removed, loss):
    candidates = tuple(
        CandidateRecord(block=block, loss=loss + block, tokens=tokens, complete=complete)
        for block, tokens, complete in [(1, 16, False), (removed, 64, True), (4, 32, False)]
    )
    return RoundRecord(
        removed=removed, loss=loss, candidates=candidates, block_forwards=10, naive_block_forwards=25, seconds=3.4
    )


def ranking(metric=Metric.SLEB, *, heal=None, **fields):
    settings = SearchSettings(
        metric=metric,
        search=Search.ELIMINATE,
        protect_first=1,
        protect_last=1,
        error_rate=None,
        looks=None,
        dtype="float32",
        heal=heal,
    )
    rounds = (decided(2, 2.25), decided(1, 2.5)) if metric is Metric.SLEB else ()
    known = {"rounds": rounds, "scores": None if rounds else (1.0,) * 5, "order": (2, 1)}
    given = {"model": MODEL, "corpus": CORPUS, "windows_fingerprint": "w", "num_windows": 8, "seq_len": 16}
    return Importance(settings=settings, dense_loss=2.0, **{**given, **known, **fields})


def test_a_target_is_served_by_the_head_of_the_order_or_by_what_swaps_made_of_it():
    plain = ranking()
    assert [plain.first(count) for count in range(3)] == [(), (2,), (2, 1)]
    assert (plain.loss_without(1), plain.loss_without(2)) == (2.25, 2.5)
    assert (plain.block_forwards, plain.naive_block_forwards) == (20, 50)
    refined = ranking(refinement=Refinement(swaps=(SWAP,), removed=(3, 1), loss=2.375))
    assert (refined.first(1), refined.first(2)) == ((2,), (3, 1))
    assert (refined.loss_without(1), refined.loss_without(2)) == (2.25, 2.375)
    assert ranking(Metric.BLOCK_INFLUENCE).loss_without(1) is None


def test_choices_nest_but_for_a_closest_run():
    for metric in (Metric.SLEB, Metric.BLOCK_INFLUENCE):
        assert [ranking(metric).has_best(count) for count in (1, 2, 3)] == [True, True, False]
    assert [ranking(Metric.ANGULAR).has_best(count) for count in (1, 2, 3)] == [False, True, False]


@pytest.mark.parametrize(
    ("metric", "fields", "message"),
    [
        (Metric.SLEB, {"order": (1, 2)}, "not the one that the rounds decided"),
        (Metric.BLOCK_INFLUENCE, {"order": (1, 1)}, "names a block twice"),
        (Metric.BLOCK_INFLUENCE, {"order": (5,)}, "one that the model does not have"),
        (Metric.SLEB, {"refinement": Refinement(swaps=(), removed=(5, 1), loss=1.0)}, "does not have"),
        (Metric.BLOCK_INFLUENCE, {"scores": (1.0,) * 4}, "not one score for each block"),
        (Metric.ANGULAR, {"rounds": (decided(2, 2.0),)}, "not one score for each block"),
    ],
)
def test_a_ranking_that_does_not_fit_itself_is_refused(metric, fields, message):
    with pytest.raises(ValidationError, match=message):
        ranking(metric, **fields)


def test_a_ranking_is_of_one_model():
    path = Path("importance.json")
    ranking().check_belongs(MODEL, path)
    with pytest.raises(ArtifactError, match=r"ranks the blocks of a/model \(5 blocks.*not of another \(7 blocks"):
        ranking().check_belongs(OTHER, path)
    experts = ExpertImportance(
        model=MODEL, corpus=CORPUS, windows_fingerprint="w", num_windows=1, seq_len=2, dtype="float32", blocks=()
    )
    experts.check_belongs(MODEL, path)
    with pytest.raises(ArtifactError, match=r"is of the experts of a/model .*, not of another \(000000000000\)"):
        experts.check_belongs(OTHER, path)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([0, 5], "block 5, but the model has blocks 0 to 4"),
        ([-1], "-1, but the model has blocks 0 to 4"),
        ([1, 1], "twice: 1, 1"),
    ],
)
def test_named_blocks_are_different_ones_of_the_model_and_not_all(blocks, message):
    check_blocks([3, 0], num_blocks=5, source="--blocks")
    with pytest.raises(ArtifactError, match=f"--blocks names .*{message}"):
        check_blocks(blocks, num_blocks=5, source="--blocks")
    with pytest.raises(ArtifactError, match="removes all 2 blocks; at least one must stay"):
        check_blocks([1, 0], num_blocks=2, source="--blocks")


def test_what_is_said_of_rounds_swaps_and_windows():
    assert str(decided(2, 2.25)) == (
        "block   2 goes: loss 2.2500 nats/token, 3 candidates, 2 dropped after 16 to 32 tokens (3 s)"
    )
    whole = decided(2, 2.25).model_copy(update={"candidates": ()})
    assert str(whole) == "block   2 goes: loss 2.2500 nats/token, 0 candidates (3 s)"
    assert str(SWAP) == "block   2 is taken back: block 3 goes in its place: loss 2.5000 -> 2.2500 (7 s)"
    chance = SWAP.model_copy(update={"kept": False})
    assert "block 3 would go in its place, but chance may explain it: loss 2.5000 -> 2.2500" in str(chance)
    assert str(SWAP.model_copy(update={"removed": 2})) == "block   2 is taken back: no other is better (7 s)"
    assert ranking().measured_on == "8 windows of 16 tokens of c4"
    healed = ranking(heal=SearchHealing(windows=3, held_back=1, ridges=(0.1,)))
    assert healed.measured_on == "5 windows of 16 tokens of c4, healed on 3 others"


def test_experts_are_ranked_by_either_measure():
    block = BlockExperts(block=3, path="mlp.experts", tokens=(5, 0, 2), reap=(0.5, 0.0, 0.25))
    assert block.scores(ExpertMetric.REAP) == (0.5, 0.0, 0.25)
    assert block.scores(next(one for one in ExpertMetric if one is not ExpertMetric.REAP)) == (5.0, 0.0, 2.0)
    assert str(block) == "block   3: least important expert 1 (REAP 0), 1 of 3 were sent no token"
    used = block.model_copy(update={"tokens": (5, 1, 2)})
    assert str(used) == "block   3: least important expert 1 (REAP 0)"
