"""What global-prune keeps in memory is bounded by what is free, and changes no number."""

import pytest
import torch
from safetensors.torch import load_file

from llmprune.algorithms.weights.patterns import Unstructured
from llmprune.artifacts.files.spill import SpillingStore
from llmprune.choices import Method, Reference
from llmprune.models.compute import Compute, choose_compute
from llmprune.models.memory import parse_memory_budget
from llmprune.stages.calibration import CalibrationSettings, calibrate
from llmprune.stages.common.workspace import open_workspace
from llmprune.stages.weight_pruning import PruningSettings, global_prune
from llmprune.stages.weight_pruning.block_shapes import BlockShapes
from llmprune.stages.weight_pruning.estimate import MEMORY, fitted_needs, pruning_needs
from tests.zoo import save_zoo_model

HALF = Unstructured(0.5)
SHAPES = BlockShapes.whole([(64, 64)] * 4 + [(256, 64)] * 2 + [(64, 256)], 64)
AMOUNTS = {
    "tokens": 1 << 24,
    "seq_len": 2048,
    "batch": 2048,
    "blocks": 2,
    "before": 0,
    "itemsize": 4,
    "stored": 4,
    "spills_wide": True,
}


@pytest.fixture
def kept(monkeypatch):
    """The budget of every store, and the most that was in its memory."""
    budgets, most, init, put = [], [0], SpillingStore.__init__, SpillingStore.put

    def opened(self, folder, *, budget):
        budgets.append(budget)
        init(self, folder, budget=budget)

    def watched(self, *args, **kwargs):
        put(self, *args, **kwargs)
        most[0] = max(most[0], self.kept_bytes)

    monkeypatch.setattr(SpillingStore, "__init__", opened)
    monkeypatch.setattr(SpillingStore, "put", watched)
    return budgets, most


@pytest.mark.parametrize(("family", "dtype"), [("llama", "float32"), ("opt", "bfloat16"), ("llama", "bfloat16")])
@pytest.mark.parametrize("reference", Reference)
def test_nothing_depends_on_what_stays_in_memory(family, dtype, reference, tmp_path, text, kept, monkeypatch):
    model = tmp_path / "model"
    save_zoo_model(model, family, num_hidden_layers=2)
    space = open_workspace(tmp_path / "run", str(model), compute=choose_compute("cpu", dtype))
    calibrate(space, CalibrationSettings(str(text), samples=6, seq_len=32))
    settings = PruningSettings(HALF, Method.SPARSELLM, reference=reference, rounds=3, verify=False)
    budgets, most = kept

    def weights():
        most[0] = 0
        return load_file(global_prune(space, settings).directory / "model.safetensors"), most[0]

    usual, in_memory = weights()
    assert in_memory > 0
    assert set(budgets) == {MEMORY}
    monkeypatch.setattr(Compute, "free_bytes", lambda self: 0)
    budgets.clear()
    settings = PruningSettings(
        HALF, Method.SPARSELLM, reference=reference, rounds=3, verify=False, out=tmp_path / "other"
    )
    within, in_memory = weights()
    assert in_memory == 0
    assert set(budgets) == {0}
    assert usual.keys() == within.keys()
    assert all(torch.equal(usual[name], within[name]) for name in usual)


@pytest.mark.parametrize("budget", [None, "1KB"])
def test_a_budget_bounds_what_is_kept(budget):
    compute = Compute(torch.device("cpu"), budget=parse_memory_budget(budget))
    needs = fitted_needs(SHAPES, PruningSettings(HALF), compute, beside=0, **AMOUNTS)
    assert needs.kept == (MEMORY if budget is None else 0)
    assert needs.memory - pruning_needs(SHAPES, PruningSettings(HALF), memory=0, **AMOUNTS).memory == needs.kept


def test_as_much_is_kept_as_is_left_beside_matrices_and_blocks(monkeypatch):
    least = pruning_needs(SHAPES, PruningSettings(HALF), memory=0, **AMOUNTS).memory
    monkeypatch.setattr(Compute, "free_bytes", lambda self: least + 5_000_000)
    needs = fitted_needs(SHAPES, PruningSettings(HALF), Compute(torch.device("cpu")), beside=2_000_000, **AMOUNTS)
    assert needs.kept == 3_000_000
    assert needs.memory == least + 3_000_000
