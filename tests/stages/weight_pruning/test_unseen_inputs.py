"""Layers whose inputs were all zero on the calibration text: pruned by magnitude, and said so."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmprune.algorithms.weights.patterns import Unstructured, parse_pattern
from llmprune.choices import Method, Reference
from llmprune.models.compute import choose_compute
from llmprune.stages.common.workspace import open_workspace
from llmprune.stages.weight_pruning import PruningSettings, global_prune
from tests.tiny import save_tiny_llama

BLOCK = "model.layers.1."


@pytest.fixture(scope="module")
def silent(tmp_path_factory):
    """A model whose block 1 sees nothing: both its norms give zero."""
    directory = save_tiny_llama(tmp_path_factory.mktemp("silent") / "mine")
    stored = load_file(directory / "model.safetensors")
    for name in ("input_layernorm", "post_attention_layernorm"):
        stored[f"{BLOCK}{name}.weight"].zero_()
    save_file(stored, directory / "model.safetensors", {"format": "pt"})
    return directory


@pytest.fixture
def space(silent, tmp_path):
    return open_workspace(tmp_path / "run", str(silent), compute=choose_compute("cpu"))


@pytest.mark.parametrize(
    ("method", "reference"),
    [
        (Method.SPARSELLM, Reference.DENSE),
        (Method.SPARSELLM, Reference.PRUNED),
        (Method.WANDA, Reference.DENSE),
        (Method.MAGNITUDE, Reference.PRUNED),
    ],
)
def test_they_are_pruned_by_magnitude_and_the_record_says_so(silent, space, settings, method, reference):
    report = global_prune(space, PruningSettings(Unstructured(0.5), method, reference=reference), calibration=settings)
    dense, found = load_file(silent / "model.safetensors"), load_file(report.directory / "model.safetensors")
    sparsity = report.record.sparsity
    unseen = {matrix.tensor for block in sparsity.blocks for matrix in block.matrices if matrix.unseen}
    assert unseen == {name for name in dense if name.startswith(BLOCK) and dense[name].ndim == 2}
    for name in unseen:
        kept, numel = found[name] != 0, dense[name].numel()
        assert int(kept.sum()) == numel - numel // 2
        assert torch.equal(found[name][kept], dense[name][kept])
        assert dense[name].abs()[~kept].max() <= dense[name].abs()[kept].min()
        remark = f"{name}: its inputs were all zero on the calibration text, so it is pruned by magnitude"
        assert remark in sparsity.remarks


def test_without_zeros_they_stay_dense(silent, space, settings):
    report = global_prune(space, PruningSettings(Unstructured(0.0), Method.SPARSEGPT), calibration=settings)
    dense, found = load_file(silent / "model.safetensors"), load_file(report.directory / "model.safetensors")
    assert all(torch.equal(found[name], dense[name]) for name in dense if name.startswith(BLOCK))


def test_a_pattern_holds_in_them(space, settings):
    report = global_prune(space, PruningSettings(parse_pattern("2:4")), calibration=settings)
    found = load_file(report.directory / "model.safetensors")
    unseen = [one for block in report.record.sparsity.blocks for one in block.matrices if one.unseen]
    assert unseen
    for matrix in unseen:
        assert bool(((found[matrix.tensor].reshape(-1, 4) == 0).sum(1) == 2).all())
