"""Routers stay dense unless asked for; matrices go back under the names that the checkpoint gave them."""

import pytest
import torch
from safetensors.torch import load_file

from llmprune.algorithms.weights.patterns import Unstructured
from llmprune.choices import Method, Part
from llmprune.stages.weight_pruning import PruningSettings, Selection, global_prune
from tests.zoo import DEPTH, save_zoo_model

HALF = Unstructured(0.5)
ROUTER = "model.layers.{}.block_sparse_moe.gate.weight"  # what is called mlp.router once it is loaded


def experts_of(block: int) -> set[str]:
    """The names of a block's experts' matrices, which are stacked once they are loaded."""
    stored = "model.layers.{}.block_sparse_moe.experts.{}.w{}.weight"
    return {stored.format(block, expert, place) for expert in range(4) for place in (1, 2, 3)}


@pytest.fixture(scope="module")
def phimoe(tmp_path_factory):
    return save_zoo_model(tmp_path_factory.mktemp("zoo") / "phimoe", "phimoe")


@pytest.fixture
def changed(open_run, settings):
    """What is not the same any more, and what was said of it, when a model is pruned."""

    def prune(model, selection):
        chosen = PruningSettings(HALF, Method.MAGNITUDE, refit_steps=0, selection=selection, samples=4)
        report = global_prune(open_run(of=model), chosen, calibration=settings)
        before, after = (load_file(directory / "model.safetensors") for directory in (model, report.directory))
        assert before.keys() == after.keys()
        return {name for name in before if not torch.equal(before[name], after[name])}, report.record.sparsity

    return prune


def test_a_router_stays_dense_and_it_is_said(changed, phimoe):
    names, sparsity = changed(phimoe, Selection())
    kinds = ("q_proj", "k_proj", "v_proj", "o_proj")
    attention = {f"model.layers.{block}.self_attn.{kind}.weight" for block in range(DEPTH) for kind in kinds}
    assert names == attention.union(*(experts_of(block) for block in range(DEPTH)))
    assert "mlp.router is a router, and stays dense" in sparsity.remarks


def test_a_router_that_is_asked_for_is_pruned_under_the_name_that_it_is_stored_by(changed, phimoe):
    names, sparsity = changed(phimoe, Selection("1,3", frozenset({Part.ROUTERS})))
    assert names == {ROUTER.format(1), ROUTER.format(3)}
    assert sparsity.zeros * 2 == sparsity.numel
    assert not any("router" in remark for remark in sparsity.remarks)


def test_matrices_that_loading_renames_are_pruned(changed, tmp_path):
    names, _ = changed(save_zoo_model(tmp_path / "hy", "hy_v3"), Selection("1", frozenset({Part.FFN})))
    modules = ("shared_mlp", *(f"experts.{expert}" for expert in range(4)))
    kinds = ("gate", "up", "down")
    assert names == {f"model.layers.1.mlp.{module}.{kind}_proj.weight" for module in modules for kind in kinds}


def test_a_matrix_that_loading_merges_stays_dense_and_it_is_said(changed, phimoe, monkeypatch):
    from llmprune.models.checkpoint_decoder import CheckpointDecoder

    tensor_of = CheckpointDecoder.tensor_of
    monkeypatch.setattr(
        CheckpointDecoder, "tensor_of", lambda self, name: None if "q_proj" in name else tensor_of(self, name)
    )
    names, sparsity = changed(phimoe, Selection("0", frozenset({Part.ATTENTION})))
    assert names == {f"model.layers.0.self_attn.{kind}.weight" for kind in ("k_proj", "v_proj", "o_proj")}
    assert "self_attn.q_proj is not stored as it is used, and stays dense" in sparsity.remarks
