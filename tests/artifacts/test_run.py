"""A run directory: whose it is, what is in it, and that nothing is left of what came to nothing."""

import fcntl
import os

import pytest

from llmprune.artifacts.run import RunDirectory
from llmprune.errors import ArtifactError


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "runs" / "one")


def record_of(run, model="a/model"):
    return run.new_record(model=model, directory=run.path.parents[1] / "elsewhere", name="model")


def test_paths_in_the_run_are_kept_relative_to_it(run):
    inside = run.new_record(model="m.gguf", directory=run.dense, name="m")
    assert inside.directory == "dense" and run.located(inside.directory) == run.dense
    outside = record_of(run)
    assert run.located(outside.directory) == run.path.parents[1] / "elsewhere"
    assert not run.path.exists(), "nothing is created before something is written"


def test_a_run_belongs_to_the_first_model_that_is_written_for(run):
    assert run.record() is None
    with run.writing(record_of(run)), run.writing(record_of(run)):
        assert run.record().model == "a/model"
    assert run.record().checkpoints == ()
    message = "belongs to the model a/model, not to another; type `run=OTHER`"
    with pytest.raises(ArtifactError, match=message), run.writing(record_of(run, "another")):
        pass
    assert run.record().model == "a/model"


def test_checkpoints_are_remembered_in_the_order_of_their_making(run, tmp_path):
    places = [run.path / "first", tmp_path / "second", run.sweep_folder / "point"]
    assert run.existing_checkpoints() == [] and run.newest_checkpoint() is None
    for place in places:
        run.remember_checkpoint(place, record_of(run))
        place.mkdir(parents=True)
    assert run.record().checkpoints == ("first", str(places[1]), "sweep/point")
    assert run.existing_checkpoints() == places and run.newest_checkpoint() == places[2]
    assert run.own_checkpoints() == places[:2]
    run.remember_checkpoint(places[0], record_of(run, "ignored"))
    assert run.record().model == "a/model" and run.newest_checkpoint() == places[0]
    for place in places[:2]:
        place.rmdir()
    assert run.existing_checkpoints() == run.own_checkpoints() == places[2:], "points stand in where nothing else is"


def test_what_is_made_for_a_model_is_told_by_name(run):
    assert run.made_here() == []
    (run.path / "bench").mkdir(parents=True)
    for place in (run.calibration, run.sweep_folder):
        place.mkdir()
    run.importance.touch()
    assert run.made_here() == ["calibration", "importance.json", "sweep"]


@pytest.mark.parametrize("way", ["writing", "recorded"])
def test_what_fails_before_it_wrote_anything_leaves_no_run(run, tmp_path, way):
    with pytest.raises(KeyboardInterrupt), getattr(run, way)(record_of(run)):
        assert run.record() is not None
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_fails_leaves_a_run_that_was_there_and_what_it_wrote(run):
    run.path.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt), run.writing(record_of(run)):
        raise KeyboardInterrupt
    assert run.path.exists() and run.record() is None, "the folder was there before; its record was not"
    with pytest.raises(KeyboardInterrupt), run.writing(record_of(run)):
        run.importance.touch()
        raise KeyboardInterrupt
    assert run.record().model == "a/model" and run.importance.exists()
    run.importance.unlink()
    with pytest.raises(KeyboardInterrupt), run.writing(record_of(run)):
        raise KeyboardInterrupt
    assert run.record().model == "a/model", "a record of an earlier command stays"


def test_a_run_that_vanished_meanwhile_is_not_made_again(run):
    with pytest.raises(KeyboardInterrupt), run.recorded(record_of(run)):
        run.record_path.unlink()
        run.path.rmdir()
        raise KeyboardInterrupt
    assert not run.path.exists()


def test_another_that_writes_is_told_and_waited_for_by_nobody(run):
    run.path.mkdir(parents=True)
    descriptor = os.open(run.path / ".lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(ArtifactError, match="Another llmprune is at work in"), run.writing(record_of(run)):
            pass
        assert run.record() is None
        with run.recorded(record_of(run)):  # beside other writers
            assert run.record().model == "a/model"
    finally:
        os.close(descriptor)


def test_a_file_is_no_run(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="is a file; type `run=OTHER`"):
        RunDirectory(tmp_path / "file").record()
    with pytest.raises(ArtifactError, match="Cannot write in"), RunDirectory(tmp_path / "file" / "run").writing(None):
        pass


def test_a_place_that_is_closed_to_writing_is_told_before(run, monkeypatch):
    run.require_writable()
    assert not run.path.exists()
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    with pytest.raises(ArtifactError, match=f"{run.path.parents[1]} is closed to writing"):
        run.require_writable()
