"""What a sweep deletes, and what it never does."""

from dataclasses import replace

import pytest

from llmprune.artifacts.records.pruning import RECORD_NAME
from llmprune.errors import OutputExistsError
from llmprune.stages.sweeping import sweep
from tests.tiny import snapshot


def test_discarded_checkpoints_are_gone_as_soon_as_nothing_more_is_made_from_them(workspace, grid):
    lying = []
    folder = workspace.run.sweep_folder

    def note(_):
        lying.append({path.name for path in folder.iterdir() if (path / RECORD_NAME).exists()})

    sweep(workspace, replace(grid, keep=False), on_point=note)
    assert [len(names) for names in lying] == [1, 1, 2, 1, 2]
    assert not folder.exists()


def test_nothing_outside_its_own_folder_is_discarded(workspace, small):
    from llmprune.stages.block_removal import RemovalSettings, remove_blocks

    mine = remove_blocks(workspace, RemovalSettings(blocks=(2,), verify=False)).directory
    before = snapshot(mine)
    sweep(workspace, replace(small, keep=False))
    assert snapshot(mine) == before


def _notes(folder):
    (folder / "thesis").mkdir(parents=True)
    (folder / "thesis" / "chapter.txt").write_text("mine")


def _link(folder):
    (folder.parent / "elsewhere").mkdir(parents=True)
    (folder.parent / "elsewhere" / "chapter.txt").write_text("mine")
    folder.symlink_to(folder.parent / "elsewhere")


def _other_partial(folder):
    (folder / "6b-wanda-50.partial").mkdir(parents=True)
    (folder / "6b-wanda-50.partial" / "chapter.txt").write_text("mine")


def _other_run(folder):
    (folder / "blocks-1.run").mkdir(parents=True)
    (folder / "blocks-1.run" / "importance.json").write_text("mine")


def test_what_a_killed_sweep_left_half_made_is_its_own(workspace, small):
    run = workspace.run.sweep_folder / "blocks-1.run"
    run.mkdir(parents=True)
    (run / ".run.json.1-0.partial").write_text("half")
    (run.with_name("sparsity-50pct.partial") / ".state.json.1-0.partial").mkdir(parents=True)
    sweep(workspace, replace(small, keep=False))
    assert not workspace.run.sweep_folder.exists()


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("make", [_notes, _link, _other_partial, _other_run])
def test_a_folder_of_somebody_else_is_refused_and_left(make, force, workspace, small):
    workspace.run.path.mkdir(parents=True, exist_ok=True)
    make(workspace.run.sweep_folder)
    before = snapshot(workspace.run.path)
    with pytest.raises(OutputExistsError, match=r"type `run=OTHER`"):
        sweep(workspace, replace(small, force=force))
    assert snapshot(workspace.run.path) == before


def test_a_file_that_was_put_into_a_checkpoint_is_never_deleted(workspace, small, listener):
    def put(done):
        (workspace.run.path / done.point.checkpoint / "notes.txt").write_text("mine")

    sweep(replace(workspace, progress=listener), replace(small, keep=False), on_point=put)
    kept = sorted(path for path in workspace.run.sweep_folder.iterdir() if path.name != ".lock")
    assert kept
    assert [[file.name for file in path.iterdir()] for path in kept] == [["notes.txt"]] * len(kept)
    assert listener.heard("notes.txt, which llmprune did not write: kept.")
    sweep(workspace, replace(small, keep=False, force=True), on_point=put)
    assert len(list(workspace.run.sweep_folder.glob("*/notes.txt"))) == 2 * len(kept)
