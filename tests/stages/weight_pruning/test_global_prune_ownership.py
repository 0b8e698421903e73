"""global-prune: whose files it replaces, what a killed one leaves, and two at once on one run."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from llmprune.algorithms.weights.patterns import Unstructured
from llmprune.artifacts.files import tensors
from llmprune.choices import Method
from llmprune.errors import ArtifactError, OutputExistsError
from llmprune.models.compute import choose_compute
from llmprune.stages.common.workspace import open_workspace
from llmprune.stages.weight_pruning import PruningSettings, Selection, global_prune
from tests.edits import edit_json
from tests.killed import changes, elsewhere, killed
from tests.tiny import Listener, snapshot

HALF = Unstructured(0.5)


def settings_in(run):
    return PruningSettings(HALF, Method.MAGNITUDE, selection=Selection(layers="0-2"), out=run / "new", verify=False)


@pytest.fixture
def pruning(run):
    return settings_in(run)


def never(_):
    pytest.fail("a block was pruned")


def stop(workspace, pruning, *, after):
    """Interrupt a pruning once ``after`` blocks are done."""
    done = []

    def count(block):
        done.append(block)
        if len(done) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        global_prune(workspace, pruning, on_block=count)
    return pruning.out.with_name("new.partial")


def weights(directory):
    return {path.name: path.read_bytes() for path in directory.glob("*.safetensors")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, calibrated, model):
    """How many times an undisturbed pruning changes something in its run, and the weights that it writes."""
    run = Path(shutil.copytree(calibrated, tmp_path_factory.mktemp("whole") / "run"))
    space = open_workspace(run, str(model), compute=choose_compute("cpu"))
    total = changes(lambda: global_prune(space, settings_in(run)), run)
    return total, weights(run / "new")


@pytest.fixture
def whole(undisturbed):
    return undisturbed[1]


@pytest.mark.parametrize("share", [0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1])
def test_a_pruning_that_is_killed_anywhere_goes_on_and_leaves_nothing(share, workspace, pruning, undisturbed, run):
    def prune():
        return global_prune(workspace, pruning)

    total, whole = undisturbed
    assert killed(prune, run, at=round(share * (total - 1)))
    assert weights(prune().directory) == whole
    assert {path.name for path in run.iterdir()} <= {".lock", "run.json", "calibration", "new"}


def test_a_library_s_temporary_file_hinders_nothing(workspace, pruning, whole, monkeypatch, run):
    def dying(written, path, *_):
        if "block-00001" in path.name:
            Path(path).with_name(".tmpAbCdEf").write_bytes(b"half")
            os._exit(1)
        save(written, path, *_)

    save = tensors.save_file
    with monkeypatch.context() as patch:
        patch.setattr(tensors, "save_file", dying)
        assert not killed(lambda: global_prune(workspace, pruning), run, at=-1)
    assert list((run / "new.partial").rglob(".tmp*"))
    listener = Listener()
    report = global_prune(replace(workspace, progress=listener), pruning)
    assert listener.heard("Going on at block 1 of 3")
    assert weights(report.directory) == whole
    assert not (run / "new.partial").exists()


@pytest.mark.parametrize("place", ["notes.txt", "pruned/notes.txt", "pruned-results.csv", "block-00001.safetensors"])
def test_a_folder_with_something_of_somebody_else_is_refused_and_left(place, workspace, pruning, run):
    folder = stop(workspace, pruning, after=1)
    path = folder / place
    if path.suffix == ".safetensors":
        path.symlink_to(__file__)
    else:
        path.write_text("mine")
    before = snapshot(run)
    for force in (False, True):
        with pytest.raises(OutputExistsError, match=r"new\.partial holds .*, which llmprune did not write; move it"):
            global_prune(workspace, replace(pruning, force=force), on_block=never)
    assert snapshot(run) == before


def test_a_file_that_comes_in_while_a_pass_is_under_way_is_never_deleted(workspace, pruning, run):
    global_prune(workspace, pruning, on_block=lambda _: (run / "new.partial" / "notes.txt").write_text("mine"))
    assert snapshot(run / "new.partial") == {"notes.txt": b"mine"}


@pytest.mark.parametrize("kind", ["notes.txt", "LICENSE.txt", "helper.py", "tokenizer_of_mine.json", "link"])
def test_a_checkpoint_with_something_of_somebody_else_in_it_is_not_even_replaced_with_force(
    kind, workspace, pruning, run
):
    out = global_prune(workspace, pruning).directory
    if kind != "link":  # whatever it is called, the record does not name it
        (out / kind).write_text("mine")
    else:
        out.symlink_to(out.rename(run / "elsewhere"))
    before = snapshot(run)
    with pytest.raises(OutputExistsError, match=r"not even `force=True` replaces it; give another directory"):
        global_prune(workspace, replace(pruning, force=True), on_block=never)
    assert snapshot(run) == before


def test_a_checkpoint_that_llmprune_did_not_write_is_never_replaced(workspace, pruning, model):
    shutil.copytree(model, pruning.out)
    before = snapshot(pruning.out)
    with pytest.raises(OutputExistsError, match="is no checkpoint of llmprune's: not even `force=True`"):
        global_prune(workspace, replace(pruning, force=True), on_block=never)
    assert snapshot(pruning.out) == before


def test_what_comes_in_while_a_checkpoint_is_replaced_is_kept_beside_it(workspace, pruning, run):
    out = global_prune(workspace, pruning).directory
    other = replace(pruning, pattern=Unstructured(0.25), force=True)
    global_prune(workspace, other, on_block=lambda _: (out / "notes.txt").write_text("mine"))
    assert not (out / "notes.txt").exists()
    assert snapshot(run / "new.kept") == {"notes.txt": b"mine"}


def test_an_interrupted_pass_gives_way_to_nothing_but_force(workspace, pruning, run):
    stop(workspace, pruning, after=2)
    before = snapshot(run)
    other = replace(pruning, damping=0.5)
    with pytest.raises(
        ArtifactError, match=r"other settings that was interrupted \(damping 0\.01, not 0\.5\); type its command again"
    ):
        global_prune(workspace, other, on_block=never)
    assert snapshot(run) == before
    assert global_prune(workspace, replace(other, force=True)).record.sparsity.settings.damping == 0.5


def test_two_prunings_into_two_places_run_side_by_side_and_one_place_has_one_at_a_time(workspace, pruning, run):
    raised = []

    def others(block):
        if block.block == 0:
            other = replace(pruning, pattern=Unstructured(0.25), out=run / "other")
            raised.extend(elsewhere(lambda: global_prune(workspace, other)))
            raised.extend(elsewhere(lambda: global_prune(workspace, pruning)))

    global_prune(workspace, pruning, on_block=others)
    assert raised == [f"Another llmprune is at work in {run}/new.partial; wait for it, or give another `out`."]
    assert {path.name for path in workspace.run.existing_checkpoints()} == {"new", "other"}
    assert not list(run.glob("*.partial"))


def test_a_pass_that_goes_on_with_other_threads_says_so_and_keeps_it(workspace, pruning, listener):
    path = stop(workspace, pruning, after=1) / "state.json"
    was = json.loads(path.read_bytes())["environment"]
    edit_json(path, environment={**was, "threads": 99})
    record = global_prune(workspace, pruning).record
    (remark,) = [one for one in record.sparsity.remarks if "instead of 99" in one]
    assert listener.heard(remark)
    assert record.environment.model_dump(mode="json") == was
    assert record.environment.libraries["torch"] == record.versions.torch
