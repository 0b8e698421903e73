"""A run remembers what it computes in: without --dtype each stage goes on in the dtype of what it builds on."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from llmprune.algorithms.weights.patterns import Unstructured
from llmprune.artifacts.records.sweep import SweepResult
from llmprune.choices import Method
from llmprune.errors import ArtifactError
from llmprune.models.compute import Compute, choose_compute
from llmprune.models.timing import Speedup
from llmprune.stages.block_removal import RemovalSettings, remove_blocks
from llmprune.stages.block_search import RedundancySettings, verify_redundancy
from llmprune.stages.calibration import calibrate
from llmprune.stages.common.workspace import open_workspace
from llmprune.stages.quickstart import _in_fast_dtype
from llmprune.stages.sweeping import sweep
from llmprune.stages.weight_pruning import PruningSettings, global_prune

HALF = PruningSettings(Unstructured(0.5), Method.WANDA)


@pytest.fixture
def narrow(open_run, settings):
    """The run of a model that is stored in float32, calibrated in bfloat16; open it again with ``open_run``."""
    calibrate(open_run(dtype="bfloat16"), settings)
    return open_run


def remarks(listener):
    return [line for line in listener.said if line.startswith("Computing in ")]


def test_a_finished_calibration_is_found_again_and_only_another_dtype_is_refused(narrow, settings, listener, run):
    assert calibrate(narrow(), settings).manifest.dtype == "bfloat16"
    assert remarks(listener) == [f"Computing in bfloat16, in which {run / 'calibration'} was made."]
    with pytest.raises(ArtifactError, match="in bfloat16 with cache 'none', made with other settings"):
        calibrate(narrow(dtype="float32"), settings)
    assert calibrate(narrow(), settings, force=True).manifest.dtype == "float32"  # anew, as the model is stored


def test_a_search_computes_in_what_the_calibration_was_made_in(narrow, listener, run):
    found = verify_redundancy(narrow(), RedundancySettings("1"))
    assert found.settings.dtype == "bfloat16"
    assert remarks(listener) == [f"Computing in bfloat16, in which {run / 'calibration'} was made."]


def test_a_search_goes_on_in_what_it_began_in(workspace, open_run, listener, run):
    first = verify_redundancy(open_run(dtype="bfloat16"), RedundancySettings("1"))
    longer = verify_redundancy(open_run(), RedundancySettings("2"))
    assert longer.settings.dtype == "bfloat16"
    assert longer.rounds[0] == first.rounds[0]
    assert remarks(listener) == [f"Computing in bfloat16, in which {run / 'importance.json'} was made."]
    at_once = verify_redundancy(open_run(dtype="bfloat16"), RedundancySettings("2"), force=True)
    assert at_once.order == longer.order
    with pytest.raises(ArtifactError, match="type `dtype=bfloat16`, or `force=True`"):
        verify_redundancy(open_run(dtype="float32"), RedundancySettings("3"))


def test_blocks_are_removed_by_a_search_that_goes_on(narrow, run):
    verify_redundancy(narrow(), RedundancySettings("1"))
    assert len(remove_blocks(narrow(), RemovalSettings("2")).record.removal.removed) == 2


def test_weights_are_pruned_in_what_the_calibration_was_made_in(narrow, listener, run, tmp_path):
    followed = global_prune(narrow(), replace(HALF, out=tmp_path / "followed")).record
    assert len(remarks(listener)) == 1
    typed = global_prune(narrow(dtype="bfloat16"), replace(HALF, out=tmp_path / "typed")).record
    assert followed.sparsity.settings == typed.sparsity.settings
    assert followed.sparsity.settings.dtype == "bfloat16"
    assert "--dtype bfloat16" in followed.command
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("followed", "typed"))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_another_dtype_than_the_calibration_s_may_be_typed_for_weights(narrow):
    assert global_prune(narrow(dtype="float32"), HALF).record.sparsity.settings.dtype == "float32"


def test_another_run_s_calibration_decides_too(narrow, run, model, tmp_path):
    second = open_workspace(tmp_path / "second", str(model), compute=choose_compute("cpu"))
    report = global_prune(second, replace(HALF, calibration=run / "calibration"))
    assert report.record.sparsity.settings.dtype == "bfloat16"


def test_a_sweep_goes_on_in_what_it_was_measured_in(workspace, open_run, small, listener, run):
    settings = replace(small, patterns=())
    assert sweep(open_run(dtype="bfloat16"), settings).measuring.dtype == "bfloat16"
    more = sweep(open_run(), replace(settings, targets=("1", "2")))
    assert [point.name for point in more.points] == ["blocks 1", "blocks 2"]
    assert more.measuring.dtype == SweepResult.read(run / "sweep.json").measuring.dtype == "bfloat16"
    assert remarks(listener) == [f"Computing in bfloat16, in which {run / 'sweep.json'} was made."]
    with pytest.raises(ArtifactError, match="was measured otherwise"):
        sweep(open_run(dtype="float32"), settings)
    assert sweep(open_run(), settings, on_point=lambda _: pytest.fail("made again")).planned == ("blocks 1",)


@pytest.mark.parametrize(
    ("gain", "dtype"), [(Speedup(2.0, 3.0), torch.bfloat16), (Speedup(1.1, 3.0), None), (None, None)]
)
def test_a_quickstart_takes_the_faster_dtype(gain, dtype, open_run, monkeypatch):
    monkeypatch.setattr(Compute, "gain", lambda self, dtype: gain)
    assert _in_fast_dtype(open_run()).compute.dtype == dtype


def test_a_quickstart_goes_on_in_what_it_began_in(narrow, monkeypatch):
    monkeypatch.setattr(Compute, "gain", lambda self, dtype: pytest.fail("timed again"))
    assert _in_fast_dtype(narrow()).compute.dtype == torch.bfloat16
