"""Where a checkpoint may be written, and what an earlier one in its place leads to."""

import json

import pytest

from llmprune.algorithms.weights.patterns import SemiStructured
from llmprune.artifacts.records.pruning import RECORD_NAME
from llmprune.choices import Method
from llmprune.errors import OutputExistsError
from llmprune.models.compute import choose_compute
from llmprune.stages.block_removal import RemovalSettings, remove_blocks
from llmprune.stages.common.workspace import open_workspace
from llmprune.stages.masking import MaskSettings, apply_mask
from llmprune.stages.weight_pruning import PruningSettings, global_prune
from tests.edits import edit_json
from tests.tiny import NUM_BLOCKS, save_tiny_llama, snapshot


def by_hand(*blocks, **options):
    return RemovalSettings(blocks=blocks, **options)


def damaged(out):
    (out / RECORD_NAME).write_text("{")


def truncated(out):
    path = out / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def of_another_model(out):
    record = json.loads((out / RECORD_NAME).read_text())
    edit_json(out / RECORD_NAME, source={**record["source"], "fingerprint": "0" * 64})


@pytest.mark.parametrize(
    ("change", "again", "message"),
    [
        (damaged, {}, r"holds a checkpoint that is damaged \(.* is not valid JSON"),
        (truncated, {}, r"holds a checkpoint that is damaged \(.* is cut off"),
        (of_another_model, {}, "holds a checkpoint made from another model"),
        (
            lambda out: None,
            {"blocks": (3,)},
            r"a checkpoint that was pruned with other settings \(blocks removed 2, not 3\)",
        ),
        (lambda out: None, {"verify": True}, "holds the same checkpoint, not verified; type `verify=False`, or"),
    ],
)
def test_another_checkpoint_in_the_same_place_is_refused_by_what_it_is(change, again, message, workspace, tmp_path):
    out = tmp_path / "out"
    remove_blocks(workspace, by_hand(2, out=out, verify=False))
    change(out)
    before = snapshot(out)
    settings = RemovalSettings(**{"blocks": (2,), "verify": False, "out": out, **again})
    with pytest.raises(OutputExistsError, match=f"{message}.*replace it with `force=True`"):
        remove_blocks(workspace, settings)
    assert snapshot(out) == before


def test_what_was_pruned_in_another_way_is_refused_by_what_it_lacks(workspace, tmp_path):
    cut, sparse = tmp_path / "cut", tmp_path / "sparse"
    remove_blocks(workspace, by_hand(2, out=cut))
    global_prune(workspace, PruningSettings(SemiStructured(2, 4), Method.MAGNITUDE, out=sparse))
    with pytest.raises(OutputExistsError, match=r"other settings \(no weights pruned\)"):
        global_prune(workspace, PruningSettings(SemiStructured(2, 4), Method.MAGNITUDE, out=cut))
    with pytest.raises(OutputExistsError, match=r"other settings \(no blocks removed\)"):
        remove_blocks(workspace, by_hand(2, out=sparse))
    with pytest.raises(OutputExistsError, match=r"other settings \(no mask applied\)"):
        apply_mask(workspace, MaskSettings(sparse, cut))


def test_another_checkpoint_is_replaced_with_force_only(workspace, tmp_path):
    out = tmp_path / "out"
    remove_blocks(workspace, by_hand(2, out=out))
    with pytest.raises(OutputExistsError, match="replace it with `force=True`"):
        remove_blocks(workspace, by_hand(3, out=out))
    assert remove_blocks(workspace, by_hand(3, out=out, force=True)).record.removal.removed == (3,)


def test_a_replacement_that_was_killed_is_put_right_before_anything_is_computed(workspace, tmp_path):
    out = tmp_path / "out"
    remove_blocks(workspace, by_hand(2, out=out, verify=False))
    out.rename(tmp_path / ".out.1-0.replaced")
    with pytest.raises(OutputExistsError, match="pruned with other settings"):
        remove_blocks(workspace, by_hand(3, out=out, verify=False))
    (tmp_path / ".out.1-1.replaced").mkdir()
    assert remove_blocks(workspace, by_hand(2, out=out, verify=False)).record.removal.removed == (2,)
    assert {path.name for path in tmp_path.iterdir() if "out" in path.name} == {"out"}


def test_what_is_no_checkpoint_is_never_replaced(workspace, tmp_path):
    out = tmp_path / "photos"
    out.mkdir()
    (out / "holiday.jpg").write_bytes(b"sea")
    for force in (False, True):
        with pytest.raises(OutputExistsError, match=r"holiday\.jpg and is no checkpoint"):
            remove_blocks(workspace, by_hand(2, out=out, force=force))
    assert snapshot(out) == {"holiday.jpg": b"sea"}


def test_an_empty_directory_may_be_filled(workspace, tmp_path):
    (tmp_path / "out").mkdir()
    assert remove_blocks(workspace, by_hand(2, out=tmp_path / "out")).record.num_blocks == NUM_BLOCKS - 1


@pytest.mark.parametrize(
    "place", ["source", "inside", "above", "run", "run/calibration", "run/bench/x", "link", "file"]
)
def test_the_output_is_kept_apart_from_the_model_and_the_run(place, open_run, workspace, run, tmp_path):
    source = save_tiny_llama(tmp_path / "models" / "mine")
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "file").write_text("")
    out = {
        "source": source,
        "inside": source / "pruned",
        "above": source.parent,
        "link": tmp_path / "link",
        "file": tmp_path / "file",
    }.get(place, tmp_path / place)
    before = snapshot(tmp_path)
    edit_json(run / "run.json", model=str(source), directory=str(source))
    before = snapshot(tmp_path)
    with pytest.raises(OutputExistsError, match="give another directory with `out`"):
        remove_blocks(open_run(of=source), by_hand(2, out=out, force=True))
    assert snapshot(tmp_path) == before


def test_a_run_inside_the_models_directory_may_hold_the_result(open_run, tmp_path):
    source = save_tiny_llama(tmp_path / "mine")
    inner = open_workspace(source / "llmprune-run", str(source), compute=choose_compute("cpu"))
    assert remove_blocks(inner, by_hand(2)).directory.parent == source / "llmprune-run"
