"""calibrate: whose files it replaces, what a killed one leaves, and what two at once do."""

import json
import shutil
from dataclasses import replace

import pytest

from llmprune.artifacts.activations import open_calibration
from llmprune.errors import ArtifactError, OutputExistsError
from llmprune.models.compute import choose_compute
from llmprune.stages.calibration import calibrate, stage
from llmprune.stages.calibration.stage import calibrated
from llmprune.stages.common.workspace import open_workspace
from tests.edits import edit_json
from tests.killed import changes, killed
from tests.tiny import Listener, snapshot


def never(task, _):
    raise AssertionError(f"{task} was run")


def interrupt(_, share):
    if share >= 0.5:
        raise KeyboardInterrupt


@pytest.fixture
def smaller(settings):
    return replace(settings, samples=3)


@pytest.fixture
def interrupted(open_run, settings, run):
    """A run whose only calibration was interrupted half-way."""
    with pytest.raises(KeyboardInterrupt):
        calibrate(open_run(listener=Listener(interrupt)), settings)
    return run


def foreign(folder, kind):
    elsewhere = folder.parent / "elsewhere"
    match kind:
        case "notes":
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "notes.txt").write_text("mine")
        case "same names":
            folder.mkdir(parents=True)
            (folder / "tokens.safetensors").write_text("mine")
            (folder / "state.json").write_text('{"mine": 1}')
        case "link":
            if folder.exists():
                folder.rename(elsewhere)
            else:
                elsewhere.mkdir(parents=True)
            folder.symlink_to(elsewhere)
        case "inner link":
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "hidden-00099.safetensors").symlink_to(__file__)
        case "file":
            folder.parent.mkdir(exist_ok=True)
            folder.write_text("mine")


@pytest.mark.parametrize("kind", ["notes", "same names", "link", "inner link", "file"])
def test_a_partial_folder_of_somebody_else_is_refused_and_left(kind, open_run, settings, run):
    foreign(run / "calibration.partial", kind)
    before = snapshot(run)
    for force in (False, True):
        with pytest.raises(OutputExistsError, match=r"calibration\.partial .*type `run=OTHER`"):
            calibrate(open_run(listener=Listener(never)), settings, force=force)
    assert snapshot(run) == before


@pytest.mark.parametrize("kind", ["notes", "link", "inner link"])
def test_a_calibration_with_something_of_somebody_else_in_it_is_not_even_replaced_with_force(
    kind, workspace, smaller, run
):
    foreign(run / "calibration", kind)
    before = snapshot(run)
    with pytest.raises(OutputExistsError, match=r"calibration .*move it away, or type `run=OTHER`"):
        calibrate(replace(workspace, progress=Listener(never)), smaller, force=True)
    assert snapshot(run) == before


def test_a_file_that_comes_in_while_a_pass_is_under_way_is_never_deleted(workspace, smaller, run):
    def put(*_):
        for folder in (run / "calibration", run / "calibration.partial"):
            (folder / "notes.txt").write_text("mine")

    calibrate(replace(workspace, progress=Listener(put)), smaller, force=True)
    assert open_calibration(run / "calibration").manifest.num_windows == 3
    assert (run / "calibration" / "notes.txt").read_text() == "mine"
    assert snapshot(run / "calibration.kept") == {"notes.txt": b"mine"}


def test_a_state_that_is_damaged_tells_no_longer_whose_the_folder_is(interrupted, open_run, settings):
    (interrupted / "calibration.partial" / "state.json").write_text("{")
    before = snapshot(interrupted)
    with pytest.raises(OutputExistsError, match=r"which llmprune did not write; move it away"):
        calibrate(open_run(), settings)
    assert snapshot(interrupted) == before


@pytest.mark.parametrize("asked", ["defaults", "other settings"])
def test_an_interrupted_pass_gives_way_to_nothing_but_force(asked, interrupted, open_run, settings, smaller, run):
    before = snapshot(interrupted)
    with pytest.raises(
        ArtifactError,
        match=r"was interrupted, with other settings than this one \(windows \w{8}\.\.\., not \w{8}\.\.\.",
    ):
        calibrate(open_run(), smaller) if asked == "other settings" else stage.calibrate_on(
            open_run(), stage._draw(open_run(), replace(smaller, seq_len=9))
        )
    assert snapshot(interrupted) == before
    assert calibrate(open_run(), smaller, force=True).manifest.num_windows == 3
    assert not (run / "calibration.partial").exists()


def test_wherever_a_replacement_is_killed_the_old_or_the_new_is_there(workspace, smaller, run, tmp_path):
    old = open_calibration(run / "calibration").manifest
    new = calibrate(replace(workspace, run=replace(workspace.run, path=tmp_path / "new")), smaller)
    shutil.copytree(new.directory, run / "calibration.partial")  # complete, and not in its place yet
    begun = tmp_path / "begun"
    shutil.copytree(run, begun)
    total = changes(lambda: calibrate(workspace, smaller, force=True), run)
    assert total > 8
    for at in range(total):
        shutil.rmtree(run)
        shutil.copytree(begun, run)
        assert killed(lambda: calibrate(workspace, smaller, force=True), run, at=at)
        workspace.run.settle()
        found = calibrated(replace(workspace, progress=Listener(never))).manifest
        assert found.windows_fingerprint in {old.windows_fingerprint, new.manifest.windows_fingerprint}
        over = found == new.manifest
        again = calibrate(replace(workspace, progress=Listener(never)), smaller, force=not over)
        assert again.manifest.windows_fingerprint == new.manifest.windows_fingerprint
        assert {path.name for path in run.iterdir()} == {".lock", "run.json", "calibration"}
        assert {path.name for path in again.directory.iterdir()} == {"manifest.json", *again.manifest.files}


@pytest.fixture(scope="module")
def number_of_changes(tmp_path_factory, model, settings):
    """How many times an undisturbed calibration changes something in its run."""
    run = tmp_path_factory.mktemp("whole") / "run"

    def make():
        return calibrate(open_workspace(run, str(model), compute=choose_compute("cpu")), settings)

    return changes(make, run)


@pytest.mark.parametrize("share", [0, 0.2, 0.55, 0.9])
def test_a_pass_that_is_killed_anywhere_goes_on_or_begins_anew(
    share, open_run, settings, run, calibrated, number_of_changes
):
    def make():
        return calibrate(open_run(), settings)

    total = number_of_changes
    assert killed(make, run, at=int(share * total))
    made = make()
    assert made.manifest.files == open_calibration(calibrated / "calibration").manifest.files
    assert {path.name for path in run.iterdir()} == {".lock", "run.json", "calibration"}


def test_what_another_process_has_finished_meanwhile_is_kept(open_run, settings, smaller, run, monkeypatch):
    draw = stage._draw

    def slow(workspace, asked):
        windows = draw(workspace, asked)
        monkeypatch.setattr(stage, "_draw", draw)
        calibrate(open_run(), settings)  # what another process does between the look and the lock
        return windows

    monkeypatch.setattr(stage, "_draw", slow)
    with pytest.raises(ArtifactError, match="made with other settings"):
        calibrate(open_run(), smaller)
    assert open_calibration(run / "calibration").manifest.num_windows == settings.samples


def test_a_pass_that_goes_on_with_other_threads_says_so_and_keeps_it(interrupted, open_run, settings, listener):
    path = interrupted / "calibration.partial" / "state.json"
    was = json.loads(path.read_bytes())["environment"]
    edit_json(path, environment={**was, "threads": 99, "tf32": True, "libraries": {**was["libraries"], "torch": "1.0"}})
    manifest = calibrate(open_run(), settings).manifest
    (remark,) = manifest.remarks
    assert "instead of 99, full float32 instead of TF32, torch " in remark
    assert listener.heard(remark)
    assert manifest.environment.model_dump(mode="json") == was
