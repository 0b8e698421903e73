"""global-prune: what it refuses before anything is computed, and what it leaves behind where it fails."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from llmprune.algorithms.weights.patterns import Unstructured
from llmprune.artifacts.activations import open_calibration
from llmprune.artifacts.records.provenance import write_state
from llmprune.artifacts.records.pruning import RECORD_NAME
from llmprune.choices import Method
from llmprune.errors import ArtifactError, NumericalError, OutputExistsError, TargetError, UserError
from llmprune.models.compute import choose_compute
from llmprune.stages.calibration import calibrate
from llmprune.stages.common.workspace import open_workspace
from llmprune.stages.weight_pruning import PruningSettings, global_prune
from llmprune.stages.weight_pruning.state import PruningPassState
from tests.tiny import SEQ_LEN, save_tiny_llama, snapshot

HALF = Unstructured(0.5)


def never(_block):
    pytest.fail("a block was pruned")


def refused(error, match, workspace, settings):
    before = snapshot(workspace.run.path)
    with pytest.raises(error, match=match):
        global_prune(workspace, settings, on_block=never)
    assert snapshot(workspace.run.path) == before


def test_a_checkpoint_of_other_settings_in_the_same_place_is_refused_at_once(workspace):
    first = global_prune(workspace, PruningSettings(HALF, Method.MAGNITUDE))
    settings = PruningSettings(HALF, Method.MAGNITUDE, damping=0.1)
    refused(
        OutputExistsError, r"pruned with other settings \(damping 0\.01, not 0\.1\); give another", workspace, settings
    )
    forced = global_prune(workspace, PruningSettings(HALF, Method.MAGNITUDE, damping=0.1, force=True))
    assert forced.directory == first.directory
    assert forced.record.sparsity.settings.damping == 0.1


def test_a_damaged_checkpoint_in_the_same_place_is_refused_at_once(workspace):
    settings = PruningSettings(HALF, Method.MAGNITUDE)
    (global_prune(workspace, settings).directory / RECORD_NAME).write_text("{")
    refused(OutputExistsError, "damaged .* not valid JSON", workspace, settings)


def test_a_folder_of_the_users_where_the_work_would_go_on_is_kept(workspace, run):
    (run / "new.partial").mkdir()
    (run / "new.partial" / "diary.txt").write_text("mine")
    refused(
        OutputExistsError,
        r"new\.partial holds diary\.txt, which llmprune did not write",
        workspace,
        PruningSettings(HALF, out=run / "new"),
    )


@pytest.mark.parametrize("same", [True, False])
def test_what_a_pass_left_after_its_checkpoint_was_written_is_removed_unless_it_is_another_s(same, workspace):
    settings = PruningSettings(HALF, Method.MAGNITUDE)
    report = global_prune(workspace, settings)
    left = report.directory.with_name(f"{report.directory.name}.partial")
    assert not left.exists()
    left.mkdir()
    done = report.record.sparsity.settings
    state = PruningPassState(
        model=workspace.model.fingerprint, settings=done if same else done.model_copy(update={"alpha": 9})
    )
    write_state(left / "state.json", state)
    global_prune(workspace, settings, on_block=never)
    assert left.exists() != same


def test_a_place_where_nothing_can_be_written(workspace):
    out = Path("/proc/nosuch/new")
    refused(UserError, "Cannot write in /proc/nosuch", workspace, PruningSettings(HALF, Method.MAGNITUDE, out=out))


def test_the_working_directory_is_no_place(workspace, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    settings = PruningSettings(HALF, out=Path())
    refused(UserError, "holds the working directory", workspace, settings)


def test_another_sequence_length_than_the_calibration_s(workspace):
    match = f"windows of {SEQ_LEN} tokens, not of 16; type `seq_len={SEQ_LEN}`"
    refused(ArtifactError, match, workspace, PruningSettings(HALF, seq_len=16))
    refused(TargetError, "more than the", workspace, PruningSettings(HALF, samples=999))
    with pytest.raises(TargetError, match="`seq_len=1` is out of range"):
        PruningSettings(HALF, seq_len=1)


def test_samples_and_sequence_length_of_a_calibration_that_is_made_first(open_run, settings):
    report = global_prune(open_run(), PruningSettings(HALF, samples=3, seq_len=20), calibration=settings)
    made = report.record.sparsity.settings
    assert (made.windows, made.seq_len) == (3, 20)
    assert "--samples 3 --seq-len 20" in report.record.command


def test_a_calibration_of_another_tokenizer(tmp_path, settings):
    mine = save_tiny_llama(tmp_path / "mine")
    space = open_workspace(tmp_path / "run", str(mine), compute=choose_compute("cpu"))
    assert calibrate(space, settings).manifest.tokenizer == space.tokenizer_fingerprint()
    path = mine / "tokenizer.json"
    content = json.loads(path.read_text())
    known = content["model"]["vocab"]
    known["a"], known["b"] = known["b"], known["a"]
    path.write_text(json.dumps(content))
    refused(ArtifactError, "tokens of mine's tokenizer as it was", space, PruningSettings(HALF))


@pytest.fixture
def broken(tmp_path):
    """Block 2 computes infinity."""
    directory = save_tiny_llama(tmp_path / "broken")
    path = directory / "model.safetensors"
    stored = load_file(path)
    for name in ("up_proj", "gate_proj"):
        stored[f"model.layers.2.mlp.{name}.weight"] *= 1e30
    save_file(stored, path, {"format": "pt"})
    return directory


def test_a_calibration_that_is_not_finite_names_the_matrix_and_leaves_nothing(broken, tmp_path, settings):
    space = open_workspace(tmp_path / "run", str(broken), compute=choose_compute("cpu"))
    with pytest.raises(NumericalError, match=r"Block 2 .* \(first in model\.layers\.2\.mlp\.down_proj\.weight\)"):
        calibrate(space, settings)
    assert not (tmp_path / "run").exists()


def test_a_pruning_that_is_not_finite_names_the_matrix_and_leaves_nothing(
    broken, workspace, tmp_path, settings, monkeypatch
):
    run = tmp_path / "of-broken"
    space = open_workspace(run, str(broken), compute=choose_compute("cpu"))
    calibration = open_calibration(workspace.run.calibration)  # as if it had been made before the weights broke
    monkeypatch.setattr("llmprune.stages.calibration.text.require_same_text", lambda *_, **__: None)
    with pytest.raises(NumericalError, match=r"Block 2 .*first matrix .* is model\.layers\.2\.mlp\.down_proj\.weight"):
        global_prune(space, PruningSettings(HALF, calibration=calibration.directory))
    assert not run.exists()
