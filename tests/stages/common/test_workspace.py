"""A run directory and its model: recorded with the first artifact, kept to, found again."""

import shutil
import threading
from dataclasses import replace

import pytest
import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file

from llmprune.artifacts.run import RunDirectory, RunRecord
from llmprune.errors import ArtifactError, ChangedError, ModelError
from llmprune.models.compute import Compute, choose_compute
from llmprune.models.source import find_model, origin_of
from llmprune.models.timing import Speedup
from llmprune.stages.benchmark import choose_subjects
from llmprune.stages.block_removal import RemovalSettings, remove_blocks
from llmprune.stages.calibration import calibrate
from llmprune.stages.common.intact import Intact
from llmprune.stages.common.progress import Silent
from llmprune.stages.common.workspace import open_workspace
from tests.edits import edit_json
from tests.pickled import pickle_weights
from tests.tiny import save_tiny_llama, snapshot

RECORD = RunRecord(model="owner/name", directory="/nowhere", name="owner/name")


def test_opening_a_workspace_writes_nothing(open_run, run):
    open_run()
    assert not run.exists()


def test_a_run_keeps_to_its_model(workspace, open_run, tmp_path, run):
    other = save_tiny_llama(tmp_path / "other", seed=1)
    with pytest.raises(ArtifactError, match=r"belongs to the model .*tiny, not to .*other; type `run=OTHER`"):
        open_run(of=other)


def test_a_run_knows_its_model_by_itself_and_by_another_spelling(workspace, run, model, monkeypatch):
    monkeypatch.chdir(model.parent)
    for spelling in (None, "tiny", "./tiny", str(model)):
        found = open_workspace(run, spelling, compute=choose_compute("cpu"))
        assert found.model == workspace.model


def test_the_same_word_elsewhere_is_another_model(workspace, run, tmp_path, monkeypatch):
    save_tiny_llama(tmp_path / "elsewhere" / "tiny")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="belongs to the model"):
        open_workspace(run, "tiny", compute=choose_compute("cpu"))


def test_a_model_that_went_away_is_named(open_run, settings, tmp_path, run):
    short_lived = save_tiny_llama(tmp_path / "short-lived")
    calibrate(open_run(of=short_lived), settings)
    shutil.rmtree(short_lived)
    with pytest.raises(ModelError, match=r"belongs to .*short-lived, which is gone"):
        open_workspace(run, None, compute=choose_compute("cpu"))


def test_one_writer_at_a_time(run):
    place = RunDirectory(run)
    refused = []

    def write_too():
        try:
            with place.writing(RECORD):
                pass
        except ArtifactError as error:
            refused.append(str(error))

    with place.writing(RECORD):
        other = threading.Thread(target=write_too)
        other.start()
        other.join()
    assert refused == [f"Another llmprune is at work in {run}; wait for it, or type `run=OTHER`."]


def test_another_processes_lock_is_left_alone(run):
    run.mkdir()
    with FileLock(run / ".lock"), pytest.raises(ArtifactError, match="at work"), RunDirectory(run).writing(RECORD):
        pass
    assert (run / ".lock").exists()


def test_what_fails_before_it_has_written_leaves_no_run_directory(tmp_path):
    place = RunDirectory(tmp_path / "new" / "run")
    with pytest.raises(ZeroDivisionError), place.writing(RECORD):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_prunings_that_end_side_by_side_are_all_remembered(run):
    place = RunDirectory(run)
    places = [run / f"pruned-{number}" for number in range(8)]
    with place.recorded(RECORD):
        others = [threading.Thread(target=place.remember_checkpoint, args=(path, RECORD)) for path in places]
        for other in others:
            other.start()
        for other in others:
            other.join()
    assert sorted(place.record().checkpoints) == [path.name for path in places]
    assert {path.name for path in run.iterdir()} == {"run.json"}


def test_who_waits_for_a_run_that_goes_away_does_not_hold_its_lock(run):
    """A lock on a file that has no name any more would exclude nobody."""
    place = RunDirectory(run)
    with pytest.raises(ZeroDivisionError), place.writing(RECORD):
        waiting = FileLock(run / ".lock")
        raise ZeroDivisionError
    assert not run.exists()
    with place.writing(RECORD), pytest.raises(Timeout):
        waiting.acquire(timeout=0)


def test_the_lock_of_a_run_that_holds_something_is_never_unlinked(run):
    place = RunDirectory(run)
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    with place.writing(RECORD):
        inode = (run / ".lock").stat().st_ino
    with pytest.raises(ZeroDivisionError), place.writing(RECORD):
        raise ZeroDivisionError
    assert (run / ".lock").stat().st_ino == inode


def test_a_run_whose_record_is_lost_is_not_taken_for_the_demo_model_s(workspace, run, model):
    (run / "run.json").unlink()
    with pytest.raises(ModelError, match=r"run holds calibration, but its run\.json is gone; type the MODEL"):
        open_workspace(run, None, compute=choose_compute("cpu"))
    with pytest.raises(ModelError, match=r"run\.json is gone"):
        choose_subjects(
            RunDirectory(run), None, None, compute=choose_compute("cpu"), progress=Silent(), trust_remote_code=False
        )
    assert open_workspace(run, str(model), compute=choose_compute("cpu")).model == workspace.model


def test_nor_is_one_that_holds_nothing_but_a_checkpoint(workspace, run):
    remove_blocks(workspace, RemovalSettings(blocks=(1,), out=run / "smaller", verify=False))
    (run / "run.json").unlink()
    shutil.rmtree(run / "calibration")
    with pytest.raises(ModelError, match=r"run holds smaller, but its run\.json is gone; type the MODEL"):
        open_workspace(run, None, compute=choose_compute("cpu"))


@pytest.mark.parametrize("damage", ["a bit of the weights", "a field of the config", "a tokenizer that is gone"])
def test_what_was_converted_is_compared_with_what_was_written(damage, tmp_path, run):
    pickled = save_tiny_llama(tmp_path / "pickled")
    pickle_weights(pickled, load_file(pickled / "model.safetensors"))

    def opened(**options):
        return open_workspace(run, str(pickled), compute=choose_compute("cpu"), **options)

    dense = opened().directory
    assert dense == run / "dense" and opened().directory == dense
    if damage.startswith("a bit"):
        weights = bytearray((dense / "model.safetensors").read_bytes())
        weights[-1] ^= 1
        (dense / "model.safetensors").write_bytes(weights)
    elif damage.startswith("a field"):
        edit_json(dense / "config.json", rms_norm_eps=1e-4)
    else:
        (dense / "tokenizer.json").unlink()
    with pytest.raises(
        ChangedError, match=r"dense .*; put an intact copy back, delete it, so that it is converted again"
    ):
        opened()
    opened(intact=Intact(check=False))
    shutil.rmtree(dense)
    assert opened().directory == dense


def test_what_a_killed_command_left_half_done_is_put_right(workspace, open_run, run):
    (run / "calibration").rename(run / ".calibration.1-0.replaced")
    (run / ".scratch.1-0.partial").mkdir()
    (run / "bench").mkdir()
    (run / "bench" / ".x.json.1-0.partial").write_text("half")
    open_run()
    assert {path.name for path in run.iterdir()} - {".lock"} == {"bench", "calibration", "run.json"}
    assert list((run / "bench").iterdir()) == []


def test_what_fails_after_it_has_written_keeps_it(run):
    place = RunDirectory(run)
    with pytest.raises(ZeroDivisionError), place.writing(RECORD):
        (run / "importance.json").write_text("{}")
        raise ZeroDivisionError
    assert place.record().model == "owner/name"
    assert (run / "importance.json").exists()


def test_a_directory_that_was_there_before_stays(run):
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    with pytest.raises(ZeroDivisionError), RunDirectory(run).writing(RECORD):
        raise ZeroDivisionError
    assert (run / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("path", ["file", "x" * 300])
def test_a_path_that_can_be_no_run_directory_is_refused(path, tmp_path, model):
    (tmp_path / "file").write_text("")
    before = snapshot(tmp_path)
    with pytest.raises(ArtifactError, match="type `run=OTHER`"):
        open_workspace(tmp_path / path, str(model), compute=choose_compute("cpu"))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "spec", ["", "nosuch", "./nosuch", "/nosuch", "~nobody-here/x", "a" * 300, "owner/name@", "\0"]
)
def test_what_can_be_no_model_is_refused(spec):
    with pytest.raises(ModelError, match="There is no model at"):
        origin_of(spec)


@pytest.mark.parametrize("spec", ["owner/name", "owner/name@main", "owner/name@refs/pr/1"])
def test_a_hub_id_is_its_own_origin(spec):
    assert origin_of(spec) == spec


@pytest.mark.parametrize("spec", ["owner/na--me", "owner/na..me"])
def test_a_name_that_the_hub_does_not_allow_is_refused(spec):
    with pytest.raises(ModelError, match="no public Hub model"):
        find_model(spec)


def test_a_dense_checkpoint_of_nobody_is_not_taken_for_the_models(run, tmp_path):
    save_tiny_llama(run / "dense")
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(ArtifactError, match="records no model"):
        open_workspace(run, str(tmp_path / "other.gguf"), compute=choose_compute("cpu"))


def test_a_file_that_is_no_gguf_leaves_nothing_behind(run, tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="cannot be read as a GGUF model"):
        open_workspace(run, str(tmp_path / "bad.gguf"), compute=choose_compute("cpu"))
    assert not run.exists()


def test_another_gguf_file_is_another_model(run, tmp_path):
    save_tiny_llama(run / "dense")
    RunRecord(model=str(tmp_path / "one.gguf"), directory="dense", name="one").write(run / "run.json")
    (tmp_path / "two.gguf").write_bytes(b"GGUF")
    with pytest.raises(ArtifactError, match=r"belongs to the model .*one\.gguf, not to .*two\.gguf"):
        open_workspace(run, str(tmp_path / "two.gguf"), compute=choose_compute("cpu"))
    assert open_workspace(run, None, compute=choose_compute("cpu")).model.name == "one"


SLOWER, ALIKE = Speedup(0.4, 0.5), Speedup(0.7, 0.9)


@pytest.mark.parametrize(
    ("dtype", "gain", "said"),
    [("bfloat16", SLOWER, 1), ("bfloat16", ALIKE, 0), ("bfloat16", None, 0), ("float32", SLOWER, 0)],
)
def test_a_dtype_that_the_machine_is_slow_in_is_remarked_upon(
    model, run, settings, listener, monkeypatch, dtype, gain, said
):
    monkeypatch.setattr(Compute, "gain", lambda self, dtype: gain)
    calibrate(open_workspace(run, str(model), compute=choose_compute("cpu", dtype), progress=listener), settings)
    remarks = [text for text in listener.said if "`dtype=float32` would be faster" in text]
    assert len(remarks) == said
    assert all("multiplies bfloat16 more slowly than float32" in text for text in remarks)


def test_a_dtype_wider_than_float32_is_not_remarked_upon(workspace, listener, monkeypatch):
    monkeypatch.setattr(Compute, "gain", lambda self, dtype: SLOWER)
    wide = Compute(torch.device("cpu"), torch.float64)
    replace(workspace, compute=wide, progress=listener).remark_slow_dtype()
    assert listener.said == []
