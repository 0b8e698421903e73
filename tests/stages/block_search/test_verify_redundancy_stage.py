"""verify-redundancy: saved after every round, gone on with, and equal to skipping blocks in the plain model."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmprune.artifacts.activations import open_calibration
from llmprune.artifacts.records.importance import Importance
from llmprune.errors import ArtifactError, OutputExistsError, TargetError
from llmprune.models.checkpoint_decoder import CheckpointDecoder
from llmprune.models.compute import Compute
from llmprune.stages.block_search import RedundancySettings, stage, verify_redundancy
from tests.edits import edit_json
from tests.tiny import NUM_BLOCKS, SAMPLES, SEQ_LEN, save_tiny_llama, snapshot


def content(run):
    """importance.json, less what differs from run to run."""
    data = json.loads((run / "importance.json").read_text())
    del data["created"], data["content_sha256"]
    for decided in data["rounds"]:
        del decided["seconds"]
    return data


def plain_loss(model, tokens, without):
    """Mean loss of the plain model whose blocks ``without`` are taken out of its list."""
    whole = AutoModelForCausalLM.from_pretrained(model).eval()
    whole.model.layers = torch.nn.ModuleList(b for i, b in enumerate(whole.model.layers) if i not in without)
    whole.config.num_hidden_layers -= len(without)
    with torch.no_grad():
        logits = whole(tokens, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()


@pytest.mark.parametrize("search", ["exhaustive", "eliminate"])
def test_every_complete_loss_is_that_of_the_plain_model_without_these_blocks(search, workspace, model):
    tokens = open_calibration(workspace.run.calibration).tokens()
    found = verify_redundancy(workspace, RedundancySettings("2", search=search, chunk_windows=8))
    assert found.dense_loss == pytest.approx(plain_loss(model, tokens, ()), abs=1e-4)
    for number, decided in enumerate(found.rounds):
        for candidate in decided.candidates:
            if candidate.complete:
                without = {*found.order[:number], candidate.block}
                assert candidate.loss == pytest.approx(plain_loss(model, tokens, without), abs=1e-4)
        best = min((one for one in decided.candidates if one.complete), key=lambda one: one.loss)
        assert (decided.removed, decided.loss) == (best.block, best.loss)


def test_exhaustive_search_sees_every_window_with_every_block(workspace):
    found = verify_redundancy(workspace, RedundancySettings("2", search="exhaustive"))
    for decided in found.rounds:
        assert {candidate.tokens for candidate in decided.candidates} == {SAMPLES * (SEQ_LEN - 1)}
    assert [len(decided.candidates) for decided in found.rounds] == [4, 3]
    assert found.block_forwards < found.naive_block_forwards == SAMPLES * (4 * 5 + 3 * 4)


def test_the_file_is_there_after_every_round(workspace, run):
    rounds = []

    def on_round(decided):
        written = Importance.read(run / "importance.json")
        assert written.rounds[-1] == decided
        rounds.append(len(written.order))

    verify_redundancy(workspace, RedundancySettings("3"), on_round=on_round)
    assert rounds == [1, 2, 3]


@pytest.mark.parametrize("search", ["exhaustive", "eliminate"])
def test_no_byte_depends_on_the_memory_that_may_be_used(search, workspace, run, listener, monkeypatch):
    settings = RedundancySettings("3", search=search, batch_size=3)
    read, written = [], []
    monkeypatch.setattr(CheckpointDecoder, "read_block", counted(CheckpointDecoder.read_block, read))
    # All in memory; one batch at a time, each block read whenever it is opened; and larger chunks.
    for free in (10**9, 0, 360_000):
        monkeypatch.setattr(Compute, "free_bytes", lambda self, free=free: free)
        verify_redundancy(workspace, settings)
        written.append((content(run), len(read)))
        (run / "importance.json").unlink()
        read.clear()
    assert written[0][0] == written[1][0] == written[2][0]
    reads = [count for _, count in written]
    assert NUM_BLOCKS <= reads[0] < reads[2] < reads[1]
    assert listener.heard("do not fit into memory")
    assert listener.heard("reading the blocks: ")


def counted(function, calls):
    return lambda *args, **kwargs: calls.append(args) or function(*args, **kwargs)


def test_an_interrupted_search_goes_on_and_decides_the_same(workspace, run, calibrated, open_run):
    settings = RedundancySettings("3", chunk_windows=8)
    verify_redundancy(workspace, settings)
    expected = content(run)
    (run / "importance.json").unlink()

    def interrupt(_):
        if len(Importance.read(run / "importance.json").order) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify_redundancy(workspace, settings, on_round=interrupt)
    assert content(run)["order"] == expected["order"][:2]
    rounds = []
    verify_redundancy(open_run(), settings, on_round=rounds.append)
    assert len(rounds) == 1
    assert content(run) == expected


def test_a_longer_target_goes_on_and_a_shorter_has_nothing_to_do(workspace, run, listener):
    first = verify_redundancy(workspace, RedundancySettings("1"))
    rounds = []
    longer = verify_redundancy(workspace, RedundancySettings("50%"), on_round=rounds.append)
    assert (len(rounds), len(longer.order)) == (2, 3)
    assert longer.rounds[0] == first.rounds[0]
    before = snapshot(run)
    assert verify_redundancy(workspace, RedundancySettings("2")) == longer
    assert listener.heard("nothing to do")
    assert snapshot(run) == before


def test_protected_ends_are_never_candidates(workspace):
    found = verify_redundancy(workspace, RedundancySettings("2", protect_first=2, protect_last=0))
    assert {candidate.block for candidate in found.rounds[0].candidates} == {2, 3, 4, 5}


@pytest.mark.parametrize("metric", ["block-influence", "angular"])
def test_one_shot_metrics_need_no_search(metric, workspace):
    found = verify_redundancy(
        workspace, RedundancySettings("3", metric=metric), on_round=lambda _: pytest.fail("a round was searched")
    )
    assert (found.rounds, found.settings.search, len(found.order)) == ((), None, 3)
    assert set(found.order) <= {1, 2, 3, 4}


def test_block_influence_orders_blocks_by_what_they_change(workspace):
    found = verify_redundancy(workspace, RedundancySettings("3", metric="block-influence"))
    influence = [block.influence for block in open_calibration(workspace.run.calibration).manifest.blocks]
    assert found.scores == tuple(influence)
    assert found.order == tuple(sorted(range(1, NUM_BLOCKS - 1), key=lambda block: influence[block])[:3])


def test_a_shorter_one_shot_target_keeps_the_longer_ranking(workspace, run, listener):
    longer = verify_redundancy(workspace, RedundancySettings("3", metric="block-influence"))
    before = snapshot(run)
    assert verify_redundancy(workspace, RedundancySettings("2", metric="block-influence")) == longer
    assert listener.heard("already ranks 3 blocks: nothing to do")
    assert snapshot(run) == before


def test_a_longer_one_shot_target_extends_the_ranking(workspace):
    first = verify_redundancy(workspace, RedundancySettings("1", metric="block-influence"))
    longer = verify_redundancy(workspace, RedundancySettings("3", metric="block-influence"))
    assert longer.order[:1] == first.order
    assert len(longer.order) == 3


def test_the_closest_run_of_another_length_is_measured_anew(workspace):
    verify_redundancy(workspace, RedundancySettings("3", metric="angular"))
    shorter = verify_redundancy(workspace, RedundancySettings("1", metric="angular"))
    distances = open_calibration(workspace.run.calibration).manifest.angular_distances
    assert shorter.order == (min(range(1, NUM_BLOCKS - 1), key=lambda block: distances[block][block + 1]),)


def test_angular_names_the_contiguous_run_that_turns_least(workspace):
    found = verify_redundancy(workspace, RedundancySettings("2", metric="angular"))
    distances = open_calibration(workspace.run.calibration).manifest.angular_distances
    start = min(range(1, 4), key=lambda block: distances[block][block + 2])
    assert found.order == (start, start + 1)


@pytest.mark.parametrize(
    "other", [{"metric": "angular"}, {"search": "exhaustive"}, {"protect_first": 2}, {"error_rate": 1e-2}]
)
def test_other_settings_are_refused_and_force_starts_anew(other, workspace, run):
    verify_redundancy(workspace, RedundancySettings("1"))
    before = snapshot(run)
    with pytest.raises(ArtifactError, match="other settings"):
        verify_redundancy(workspace, RedundancySettings("2", **other))
    assert snapshot(run) == before
    found = verify_redundancy(workspace, RedundancySettings("2", **other), force=True)
    assert found == Importance.read(run / "importance.json")


def test_a_search_does_not_go_on_in_another_dtype(workspace, open_run):
    verify_redundancy(workspace, RedundancySettings("1"))
    with pytest.raises(ArtifactError, match="type `dtype=float32`"):
        verify_redundancy(open_run(dtype="bfloat16"), RedundancySettings("2"))


def test_a_missing_calibration_is_made_first_and_that_is_said(open_run, listener, run):
    verify_redundancy(open_run(), RedundancySettings("1"))
    assert listener.heard("running calibrate with its defaults first")
    assert open_calibration(run / "calibration").manifest.num_windows == 128


def test_a_calibration_of_another_model_is_refused(run, calibrated, open_run, tmp_path):
    other = save_tiny_llama(tmp_path / "other", seed=1)
    shutil.copytree(calibrated / "calibration", run / "calibration")
    with pytest.raises(ArtifactError, match=r"calibration of tiny, whose config or weights differ from other"):
        verify_redundancy(open_run(of=other), RedundancySettings("1"))
    assert [path.name for path in run.iterdir()] == ["calibration"]


def test_damaged_tokens_are_not_searched_on(workspace, run):
    tokens = run / "calibration" / "tokens.safetensors"
    content = bytearray(tokens.read_bytes())
    content[-1] ^= 1
    tokens.write_bytes(content)
    with pytest.raises(ArtifactError, match="is not what calibrate wrote"):
        verify_redundancy(workspace, RedundancySettings("1"))


def test_no_path_of_this_machine_stands_in_the_file(workspace, run, text, model):
    verify_redundancy(workspace, RedundancySettings("1"))
    written = (run / "importance.json").read_text()
    assert "sea.txt" in written
    for path in (text.parent, model.parent, run):
        assert str(path) not in written


@pytest.mark.parametrize("edit", ["order", "removed", "scores"])
def test_an_importance_file_that_contradicts_itself_is_refused(edit, workspace, run):
    verify_redundancy(workspace, RedundancySettings("2"))
    data = json.loads((run / "importance.json").read_text())
    if edit == "order":
        data["order"] = [*data["order"], 1]
    elif edit == "removed":
        data["rounds"] = data["rounds"][:1]
    else:
        data["settings"]["metric"] = "block-influence"
    edit_json(run / "importance.json", **data)
    with pytest.raises(ArtifactError, match="is damaged"):
        verify_redundancy(workspace, RedundancySettings("2"))


@pytest.mark.parametrize(
    "wrong",
    [{"target": "0%"}, {"target": "abc"}, {"chunk_windows": 0}, {"batch_size": -1}, {"protect_last": -1}]
    + [{"error_rate": rate} for rate in (0.0, 0.5, float("nan"))],
)
def test_numbers_that_no_model_allows_are_refused_before_one_is_opened(wrong):
    with pytest.raises(TargetError):
        RedundancySettings(**wrong)


def test_more_blocks_than_the_model_can_lose_are_refused(workspace, run):
    before = snapshot(run)
    with pytest.raises(TargetError, match="at most 3 can go"):
        verify_redundancy(workspace, RedundancySettings("4"))
    assert snapshot(run) == before


def test_what_another_process_has_found_meanwhile_is_kept(workspace, run, monkeypatch):
    look = stage._known

    def slow(*args, **options):
        found = look(*args, **options)
        monkeypatch.setattr(stage, "_known", look)
        verify_redundancy(workspace, RedundancySettings("3"))  # by another process, between the look and the lock
        return found

    monkeypatch.setattr(stage, "_known", slow)
    found = verify_redundancy(workspace, RedundancySettings("2"), on_round=lambda _: pytest.fail("searched again"))
    assert found == Importance.read(run / "importance.json")
    assert len(found.order) == 3


def test_a_ranking_that_another_process_changed_between_two_rounds_is_not_written_over(workspace, run):
    steps = stage.search_steps(workspace, RedundancySettings("3"))
    next(steps)
    verify_redundancy(workspace, RedundancySettings("2"))
    before = (run / "importance.json").read_bytes()
    with pytest.raises(ArtifactError, match="was changed by another process meanwhile"):
        next(steps)
    assert (run / "importance.json").read_bytes() == before


@pytest.mark.parametrize("metric", ["sleb", "block-influence"])
def test_a_file_of_somebody_else_is_not_replaced_even_with_force(metric, workspace, run):
    (run / "importance.json").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"importance\.json was not written by llmprune, or is damaged"):
        verify_redundancy(workspace, RedundancySettings("2", metric=metric), force=True)
    assert (run / "importance.json").read_text() == "mine"


def test_a_search_that_goes_on_with_other_threads_says_so(workspace, run, listener):
    found = verify_redundancy(workspace, RedundancySettings("1"))
    was = found.environment.model_copy(update={"threads": 99})
    found.model_copy(update={"environment": was}).write(run / "importance.json")
    assert verify_redundancy(workspace, RedundancySettings("2")).environment == found.environment
    assert listener.heard("From round 2 on, the computation went on with")
