"""A sweep that was killed, grown or changed: nothing lost, nothing mixed, nothing of the user's deleted."""

import itertools
import json
import shutil
from dataclasses import replace

import pytest

from llmprune.artifacts.activations import open_calibration
from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.pruning import RECORD_NAME
from llmprune.artifacts.records.sweep import SweepResult
from llmprune.choices import Method
from llmprune.errors import ArtifactError, NumericalError, OutputExistsError
from llmprune.stages.block_search import RedundancySettings, verify_redundancy
from llmprune.stages.calibration import CalibrationSettings, calibrate
from llmprune.stages.output import own_folder
from llmprune.stages.sweeping import points as sweep_points
from llmprune.stages.sweeping import sweep
from llmprune.stages.weight_pruning.block import BlockPruning
from tests.edits import edit_json
from tests.killed import elsewhere
from tests.tiny import snapshot


def figures(result):
    """All that two runs must agree upon."""
    return [(one.name, one.removed, one.pattern, one.metrics["ppl"], one.metrics["ppl_ratio"]) for one in result.points]


def ratios_in_full(result, run):
    return [BenchResult.read(run / point.bench).metrics["ppl_ratio"] for point in result.points]


def test_more_points_are_added_to_those_that_are_there(swept, small, grid, listener):
    workspace, first = swept.workspace, swept.result
    seen = []
    more = sweep(workspace, grid, on_point=lambda done: seen.append(done.point.name))
    assert more.points[: len(first.points)] == first.points
    assert len(seen) == 2
    assert {point.name for point in more.points} == set(more.planned)
    assert more.dense == first.dense
    less = sweep(workspace, small, on_point=lambda _: pytest.fail("made again"))
    assert less.points == more.points
    assert listener.heard("has all of these points already: nothing to do")


class _Killed(BaseException):
    pass


def dying(monkeypatch, at):
    """Every step of a sweep counts; the process dies before step ``at``, or behind it for a half more."""
    steps = itertools.count(0, 0.5)

    def around(function):
        def wrapped(*args, **options):
            if next(steps) == at:
                raise _Killed
            result = function(*args, **options)
            if next(steps) == at:
                raise _Killed
            return result

        return wrapped

    for name in ("bench_in_run", "remove_blocks", "global_prune"):
        monkeypatch.setattr(sweep_points, name, around(getattr(sweep_points, name)))
    monkeypatch.setattr(SweepResult, "write", around(SweepResult.write))
    monkeypatch.setattr(own_folder, "remove_checkpoint", around(own_folder.remove_checkpoint))


KEPT, GIVEN_UP = [(at, True) for at in (0, 2.5, 9)], [(at, False) for at in (1, 5.5, 10, 12.5)]


@pytest.mark.parametrize(("at", "keep"), [*KEPT, *GIVEN_UP])
def test_a_sweep_killed_anywhere_goes_on_and_ends_the_same(at, keep, workspace, small, monkeypatch, swept_small):
    settings = replace(small, keep=keep)
    with monkeypatch.context() as patch:
        dying(patch, at)
        with pytest.raises(_Killed):
            sweep(workspace, settings)
    done = SweepResult.read(workspace.run.sweep).points if workspace.run.sweep.exists() else ()
    seen = []
    result = sweep(workspace, settings, on_point=lambda one: seen.append(one.point.name))
    assert len(seen) == len(result.points) - len(done)
    assert {point.name for point in done}.isdisjoint(seen)
    assert figures(result) == figures(swept_small.result)
    assert len(list(workspace.run.bench.iterdir())) == 1 + len(result.points)  # one that was stopped is not kept twice
    if keep:
        assert all((workspace.run.path / point.checkpoint / RECORD_NAME).is_file() for point in result.points)
    else:
        assert not workspace.run.sweep_folder.exists()
        assert all(point.checkpoint is None for point in result.points)


def refused(swept, settings, said):
    """See that a sweep says so, and changes nothing."""
    before = snapshot(swept.workspace.run.path)
    with pytest.raises(ArtifactError) as caught:
        sweep(swept.workspace, settings)
    assert said in str(caught.value)
    assert snapshot(swept.workspace.run.path) == before


def kept_weights(swept, settings):
    """The files of weights that a sweep takes over from the one that it replaces."""
    made = {path: identity(path) for path in swept.workspace.run.sweep_folder.glob("*/model.safetensors")}
    second = sweep(swept.workspace, replace(settings, force=True))
    assert len(second.points) == 3
    assert second.dense != swept.result.dense
    return [path for path, before in made.items() if identity(path) == before]


def identity(path):
    """Which file it is, and when it was written: the number of a file that is gone is given to another one."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def test_points_made_otherwise_are_another_sweep(swept, small):
    said = "was pruned otherwise (wanda, sleb, on 24 x 32 tokens of sea.txt)"
    settings = replace(small, method=Method.MAGNITUDE)
    refused(swept, settings, said)
    assert not kept_weights(swept, settings)


def test_points_measured_otherwise_are_another_sweep_with_the_same_weights(swept, small):
    said = "was measured otherwise (4 windows of 64 tokens of sea.txt, no speed, float32)"
    for change in ({"bos": "always"}, {"max_windows": 3}, {"ppl_seq_len": 32}):
        settings = replace(small, bench=replace(small.bench, **change))
        refused(swept, settings, said)
    assert kept_weights(swept, settings)


def test_a_calibration_that_was_replaced_is_another_sweep(swept, small, text):
    workspace = swept.workspace
    calibrate(workspace, CalibrationSettings(source=str(text), samples=5, seq_len=16), force=True)
    with pytest.raises(ArtifactError, match="was pruned otherwise"):
        sweep(workspace, small)


def test_a_calibration_of_another_size_than_the_runs_is_refused(workspace, small, text):
    asked = CalibrationSettings(source=str(text), samples=5, seq_len=16)
    with pytest.raises(ArtifactError, match="made with other settings"):
        sweep(workspace, replace(small, calibration=asked))


def test_a_text_that_changed_is_another_sweep(workspace, small, tmp_path, text):
    mine = tmp_path / "mine.txt"
    mine.write_text(text.read_text())
    settings = replace(small, targets=(), bench=replace(small.bench, ppl=(str(mine),)))
    sweep(workspace, settings)
    mine.write_text(text.read_text()[::-1])
    with pytest.raises(ArtifactError, match="was measured otherwise"):
        sweep(workspace, settings)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: edit_json(path, schema_version=9), "has schema 9"),
        (lambda path: edit_json(path, points=1), "is damaged at 'poi"),
        (lambda path: path.write_text(json.dumps({"kind": "llmprune-bench"})), "of kind 'llmprune-bench'"),
    ],
)
def test_a_damaged_sweep_is_refused_and_force_begins_anew(damage, said, swept, small):
    workspace, settings = swept.workspace, replace(small, targets=())
    damage(workspace.run.sweep)
    with pytest.raises(ArtifactError) as caught:
        sweep(workspace, settings)
    assert said in str(caught.value)
    assert len(sweep(workspace, replace(settings, force=True)).points) == 1


@pytest.mark.parametrize("mine", ["notes", '{"mine": 1}', "link"])
def test_a_file_of_somebody_else_in_its_place_is_refused_even_with_force(mine, workspace, small, tmp_path):
    (tmp_path / "elsewhere.json").write_text('{"kind": "llmprune-sweep"}')
    if mine == "link":
        workspace.run.sweep.symlink_to(tmp_path / "elsewhere.json")
    else:
        workspace.run.sweep.write_text(mine)
    before = snapshot(workspace.run.path)
    for force in (False, True):
        with pytest.raises((ArtifactError, OutputExistsError), match=r"move it away|to make it anew"):
            sweep(workspace, replace(small, force=force))
    assert snapshot(workspace.run.path) == before


def test_a_sweep_of_another_model_is_refused(swept, small):
    workspace = swept.workspace
    known = SweepResult.read(workspace.run.sweep)
    known.model_copy(update={"model": known.model.model_copy(update={"fingerprint": "0"})}).write(workspace.run.sweep)
    with pytest.raises(ArtifactError, match="whose config or weights differ now"):
        sweep(workspace, small)


def test_while_a_sweep_is_under_way_nobody_replaces_what_it_builds_on(workspace, small, text):
    other = CalibrationSettings(source=str(text), samples=5, seq_len=16)
    raised = []

    def try_others(_):
        raised.extend(elsewhere(lambda: calibrate(workspace, other, force=True)))
        raised.extend(elsewhere(lambda: verify_redundancy(workspace, RedundancySettings(target="1"), force=True)))
        raised.extend(elsewhere(lambda: sweep(workspace, small)))

    before = open_calibration(workspace.run.calibration).manifest
    sweep(workspace, replace(small, targets=()), on_point=try_others)
    assert len(raised) == 3
    assert all("Another llmprune is at work in" in message for message in raised)
    assert open_calibration(workspace.run.calibration).manifest == before


def test_models_without_their_benchmarks_are_measured_again(swept, small, listener):
    workspace, first = swept.workspace, swept.result
    run = workspace.run.path
    (run / first.dense.bench).unlink()
    shutil.copyfile(run / first.points[1].bench, run / first.points[0].bench)
    again = sweep(workspace, small)
    assert listener.heard(f"{first.dense.bench} is not the benchmark of 'dense' any more, which is measured again")
    assert listener.heard(f"{first.points[0].bench} is not the benchmark of '{first.points[0].name}' any more")
    assert figures(again) == [*figures(first)[1:], *figures(first)[:1]]
    assert again.points[:-1] == first.points[1:]
    for point in (again.dense, *again.points):
        assert BenchResult.read(run / point.bench).metrics == point.metrics


@pytest.mark.parametrize("keep", [True, False])
def test_a_pruning_that_was_stopped_goes_on_at_its_block(keep, workspace, small, monkeypatch):
    blocks = itertools.count()
    prune = BlockPruning.prune

    def stopping(self):
        if next(blocks) == 9:  # the sixth of the sparsity's blocks is 5, the fourth of the combined point's 9
            raise _Killed
        return prune(self)

    settings = replace(small, keep=keep)
    with monkeypatch.context() as patch:
        patch.setattr(BlockPruning, "prune", stopping)
        with pytest.raises(_Killed):
            sweep(workspace, settings)
    pruned = []
    monkeypatch.setattr(BlockPruning, "prune", lambda self: pruned.append(1) or prune(self))
    assert len(sweep(workspace, settings).points) == 3
    assert len(pruned) == 2  # of the five that are left


def test_a_point_whose_numbers_fail_is_left_out_said_and_tried_again(workspace, small, monkeypatch, listener):
    def failing(*_, **__):
        raise NumericalError("The Gram matrix of x cannot be factored.")

    with monkeypatch.context() as patch:
        patch.setattr(sweep_points, "global_prune", failing)
        result = sweep(workspace, small)
    assert [point.name for point in result.points] == ["blocks 1"]
    assert [one.name for one in result.skipped] == ["sparsity 50%", "blocks 1 + sparsity 39.83%"]
    assert listener.heard("sparsity 50% is left out: The Gram matrix of x cannot be factored.")
    result = sweep(workspace, small)
    assert len(result.points) == 3
    assert not result.skipped


def test_a_run_that_was_moved_goes_on(swept, small):
    workspace, first = swept.workspace, swept.result
    moved = workspace.run.path.rename(workspace.run.path.with_name("moved"))
    other = replace(workspace, run=replace(workspace.run, path=moved))
    result = sweep(other, replace(small, combine="grid"))
    assert len(result.points) == 4
    assert result.points[:3] == first.points
