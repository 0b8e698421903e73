"""TF32 in every artifact: pinned off or on by llmprune, whatever the process had set."""

import pytest
import torch

from llmprune.algorithms.weights.patterns import Unstructured
from llmprune.artifacts.activations import open_calibration
from llmprune.artifacts.records.environment import Environment, compared
from llmprune.artifacts.records.expert_importance import ExpertImportance
from llmprune.artifacts.records.importance import Importance
from llmprune.choices import Heal
from llmprune.evaluation.machine import describe_machine
from llmprune.models.compute import choose_compute
from llmprune.models.devices import makes_tf32_products, rounds_to_tf32
from llmprune.stages.block_removal import RemovalSettings, remove_blocks
from llmprune.stages.block_search import RedundancySettings, verify_redundancy
from llmprune.stages.calibration import CalibrationSettings, calibrate
from llmprune.stages.common.workspace import open_workspace
from llmprune.stages.expert_removal import ExpertSettings, remove_experts
from llmprune.stages.weight_pruning import PruningSettings, decoder_pruning, global_prune
from tests.zoo import save_zoo_model

PINNED_OFF = (False, True)
HALF = Unstructured(0.5)


@pytest.fixture
def tf32_set():
    """A process that rounds float32 products on GPUs to TF32 of its own accord."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield
    torch.backends.cuda.matmul.fp32_precision = before


def pinned(record):
    return record.environment.tf32, record.environment.tf32_pinned


@pytest.mark.usefixtures("tf32_set", "quick_disk")
def test_every_artifact_says_that_tf32_was_off_though_the_process_had_it_on(tmp_path):
    mixture = tmp_path / "model"
    save_zoo_model(mixture, "qwen3_moe", num_hidden_layers=3, moe_intermediate_size=16)
    space = open_workspace(tmp_path / "run", str(mixture), compute=choose_compute("cpu", "float32"))
    calibrate(space, CalibrationSettings("python-docs", samples=4, seq_len=32))
    verify_redundancy(space, RedundancySettings("1", protect_first=0))
    cut = remove_blocks(space, RemovalSettings(blocks=(1,), heal=Heal.CUT, verify=False))
    sparse = global_prune(space, PruningSettings(HALF, rounds=1, verify=False))
    remove_experts(space, ExpertSettings(target="1", verify=False))
    found = [
        open_calibration(space.run.calibration).manifest,
        Importance.read(space.run.importance),
        cut.record,
        sparse.record,
        ExpertImportance.read(space.run.experts),
    ]
    assert [pinned(one) for one in found] == [PINNED_OFF] * len(found)


def test_pruning_on_a_gpu_records_its_sums_in_tf32(workspace, monkeypatch):
    monkeypatch.setattr(decoder_pruning, "rounds_to_tf32", lambda device, dtype: True)
    report = global_prune(workspace, PruningSettings(HALF, rounds=1, verify=False))
    assert pinned(report.record) == (True, True)
    assert any("TF32" in remark for remark in report.record.sparsity.remarks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_sums_are_rounded_on_cuda_for_half_precision_alone(device, dtype):
    assert rounds_to_tf32(torch.device(device), dtype) == (device == "cuda:0" and dtype != torch.float32)


def test_what_a_process_has_set_is_read_for_models_that_run_as_it_says(tf32_set):
    assert makes_tf32_products(torch.device("cuda:0"))
    assert makes_tf32_products(torch.device("cpu")) is None
    assert describe_machine(torch.device("cpu")).tf32 is None
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    assert not makes_tf32_products(torch.device("cuda:0"))


def test_files_from_before_it_was_kept_differ_in_nothing_that_counts():
    now = Environment.now()
    old = Environment.model_validate({"threads": now.threads, "tf32": False, "libraries": now.libraries})
    assert not old.tf32_pinned
    assert compared(old, now) is None
