"""Experts are pruned one by one: each on the tokens that the router sends it, and stored as the checkpoint had it."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, batched_mm_experts_forward

from llmprune.algorithms import SILU, FfnSettings, GatedFfn, Linear, first_chunk, prune_ffn
from llmprune.algorithms.weights.patterns import SemiStructured, Unstructured
from llmprune.artifacts.activations import open_calibration
from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.choices import Method, Part, Reference
from llmprune.errors import TargetError
from llmprune.stages.benchmark.sparsity import count_zeros
from llmprune.stages.weight_pruning import PruningSettings, Selection, check_shapes, global_prune
from llmprune.stages.weight_pruning.block import BlockPruning
from tests.reference_experts import prune_expert, routed_tokens
from tests.zoo import save_zoo_model

HALF = Unstructured(0.5)
FFN = frozenset({Part.FFN})
NAME = "model.layers.0.mlp.experts.{}.{}_proj.weight"
KINDS = ("gate", "up", "down")
ORACLE = {"reference": Reference.PRUNED, "refit_steps": 0, "selection": Selection("0", FFN)}


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


@pytest.fixture(autouse=True)
def _float64(monkeypatch):
    """The usual product of all experts at once knows no float64."""
    monkeypatch.setitem(ALL_EXPERTS_FUNCTIONS, "grouped_mm", batched_mm_experts_forward)


@pytest.fixture(scope="module")
def moe(tmp_path_factory) -> Path:
    """A Qwen3-MoE of two blocks and four experts in float64."""
    folder = tmp_path_factory.mktemp("moe")
    small = {"num_hidden_layers": 2, "moe_intermediate_size": 16}
    directory = save_zoo_model(folder / "moe", "qwen3_moe", **small)
    AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64).save_pretrained(directory)
    return directory


@pytest.fixture
def pruned(open_run, settings) -> Callable[..., tuple]:
    """The report of a pruning, and the calibration tokens that it was made on."""

    def prune(model, method, pattern=HALF, samples=12, **others):
        space = open_run(of=model)
        chosen = PruningSettings(pattern, method, samples=samples, **others)
        report = global_prune(space, chosen, calibration=settings)
        return report, open_calibration(space.run.calibration).tokens()[:samples]

    return prune


def routed(directory: Path, tokens: torch.Tensor, *, block: int = 0):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64).eval()
    return routed_tokens(model.model.layers[block].mlp.experts, lambda: model(input_ids=tokens, use_cache=False))


@pytest.mark.parametrize("pattern", [HALF, SemiStructured(2, 4)], ids=str)
def test_sparsegpt_is_that_of_each_expert_on_its_own_tokens(pattern, pruned, moe):
    report, tokens = pruned(moe, Method.SPARSEGPT, pattern, **ORACLE, block_size=16)
    before, after = weights(moe), weights(report.directory)
    (record,) = report.record.sparsity.blocks[0].experts
    for expert, (inputs, gates) in enumerate(routed(moe, tokens)):
        assert record.tokens[expert] == len(inputs)
        dense = [before[NAME.format(expert, kind)] for kind in KINDS]
        own = prune_expert(*dense, inputs, gates, pattern, damping=0.01, block_size=16)
        for kind, expected in zip(KINDS, own, strict=True):
            torch.testing.assert_close(after[NAME.format(expert, kind)], expected, rtol=1e-7, atol=1e-9)
    assert record.shared == ()


def test_sparsellm_solves_each_expert_on_its_own_tokens(pruned, moe):
    report, tokens = pruned(moe, Method.SPARSELLM, **ORACLE, rounds=2)
    before, after = weights(moe), weights(report.directory)
    (record,) = report.record.sparsity.blocks[0].experts
    layer = PruningSettings(HALF, Method.SPARSELLM, **ORACLE).layer
    for expert, (inputs, gates) in enumerate(routed(moe, tokens)):
        gate, up, down = (Linear(before[NAME.format(expert, kind)]) for kind in KINDS)
        ffn = GatedFfn(up, gate, down, SILU)
        result = prune_ffn(ffn, [first_chunk(ffn, inputs, scale=gates)], FfnSettings(layer, rounds=2))
        assert record.ffns[expert].errors == pytest.approx(result.relative_errors, rel=1e-6)
        best = (result.best.gate, result.best.up, result.best.down)
        for kind, expected in zip(KINDS, best, strict=True):
            torch.testing.assert_close(after[NAME.format(expert, kind)], expected.weight, rtol=1e-6, atol=1e-8)


def test_an_expert_that_was_sent_too_few_tokens_is_pruned_on_those_of_all(pruned, moe):
    report, tokens = pruned(moe, Method.SPARSEGPT, **ORACLE, block_size=16, samples=2)
    before, after = weights(moe), weights(report.directory)
    (record,) = report.record.sparsity.blocks[0].experts
    few = tuple(expert for expert, count in enumerate(record.tokens) if count < 32)
    assert record.shared == few
    assert 0 < len(few) < 4
    inputs = torch.cat([inputs for inputs, _ in routed(moe, tokens)]).unique(dim=0)
    assert len(inputs) == 64
    dense = [before[NAME.format(few[0], kind)] for kind in KINDS]
    own = prune_expert(*dense, inputs, torch.ones(64), HALF, damping=0.01, block_size=16)
    for kind, expected in zip(KINDS, own, strict=True):
        torch.testing.assert_close(after[NAME.format(few[0], kind)], expected, rtol=1e-7, atol=1e-9)
    said = f"{len(few)} of 4 experts of block 0 were sent fewer tokens than a matrix of theirs has inputs, and are "
    assert said + "pruned on tokens of all experts" in report.record.sparsity.remarks
    assert f"4 experts ({len(few)} on tokens of all)" in str(report.record.sparsity.blocks[0])


# A stack under another name; stacks that are (in, out), with biases, gate and up interleaved; plain experts.
@pytest.mark.parametrize("model_type", ["granitemoe", "gpt_oss", "mixtral", "nemotron_h"])
def test_the_zeros_are_exact_in_every_expert_however_it_is_stored(model_type, pruned, tmp_path):
    model = save_zoo_model(tmp_path / model_type, model_type)
    report, _ = pruned(model, Method.SPARSELLM, SemiStructured(2, 4), selection=Selection(parts=FFN), rounds=1)
    record = report.record.sparsity
    stacks = [m for block in record.blocks for m in block.matrices if m.experts > 1]
    assert stacks
    before, after = weights(model), weights(report.directory)
    assert before.keys() == after.keys()
    for matrix in stacks:
        tensors = [after[name] for name in matrix.tensors]
        experts = tensors if len(tensors) > 1 else list(tensors[0])
        assert [int((own == 0).sum()) for own in experts] == [matrix.rows * matrix.columns // 2] * 4
        assert matrix.zeros == 2 * matrix.rows * matrix.columns
    counted = count_zeros(open_checkpoint(report.directory))
    assert counted.pattern == "2:4"
    assert counted.violations == 0
    unknown = any("has no known activation" in remark for remark in record.remarks)
    assert unknown == (model_type in ("gpt_oss", "nemotron_h"))
    assert record.zeros * 2 == record.numel


@pytest.mark.parametrize("model_type", ["gpt_oss", "mixtral"])
def test_a_checkpoint_in_bfloat16_keeps_its_dtype(model_type, pruned, tmp_path):
    model = save_zoo_model(tmp_path / model_type, model_type, num_hidden_layers=2)
    AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).save_pretrained(model)
    report, _ = pruned(model, Method.SPARSELLM, rounds=1, selection=Selection(parts=FFN))
    after = weights(report.directory)
    for matrix in report.record.sparsity.blocks[0].matrices:
        assert all(after[name].dtype is torch.bfloat16 for name in matrix.tensors)
    assert report.record.sparsity.zeros * 2 == report.record.sparsity.numel == 2 * 4 * 3 * 48 * 32


def test_experts_and_matrices_that_are_excluded_stay_dense(pruned, moe):
    exclude = ("*.experts.1.*", "*.experts.2.down_proj")
    report, _ = pruned(moe, Method.SPARSELLM, rounds=1, selection=Selection("0", FFN, exclude))
    before, after = weights(moe), weights(report.directory)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    whole = {NAME.format(expert, kind) for expert in (0, 3) for kind in KINDS}
    assert changed == whole | {NAME.format(2, "gate"), NAME.format(2, "up")}
    (record,) = report.record.sparsity.blocks[0].experts
    assert len(record.ffns) == 2  # expert 2 is pruned matrix by matrix
    assert {m.kind.rpartition(".")[2]: m.experts for m in report.record.sparsity.blocks[0].matrices} == {
        "gate_proj": 3,
        "up_proj": 3,
        "down_proj": 2,
    }


def test_a_pattern_that_does_not_fit_names_the_expert_and_what_leaves_it_out(open_run, tmp_path):
    model = save_zoo_model(tmp_path / "odd", "qwen3_moe", num_hidden_layers=2, moe_intermediate_size=18)
    with pytest.raises(TargetError, match=r"layers\.0\.mlp\.experts\.0\.down_proj\.weight: The pattern 2:4") as refused:
        global_prune(open_run(of=model), PruningSettings(SemiStructured(2, 4)))
    pattern = str(refused.value).partition("exclude='")[2].partition("'")[0]
    assert pattern == "model.layers.*.mlp.experts.*.down_proj"
    selection = Selection("0", FFN, (pattern,))
    check_shapes(open_run(of=model).open_shell(), [0], selection, SemiStructured(2, 4))


@pytest.mark.parametrize("method", [Method.WANDA, Method.MAGNITUDE])
def test_other_methods_prune_experts_too(method, pruned, moe):
    report, _ = pruned(moe, method, selection=Selection("0", FFN))
    assert report.record.sparsity.zeros * 2 == report.record.sparsity.numel == 3 * 4 * 16 * 32 * 2 // 2
    assert all(matrix.error < 1 for matrix in report.record.sparsity.blocks[0].matrices)


def test_a_router_that_is_asked_for_is_pruned(pruned, moe):
    report, _ = pruned(moe, Method.SPARSEGPT, selection=Selection("0", frozenset({Part.ROUTERS})))
    after = weights(report.directory)
    assert int((after["model.layers.0.mlp.gate.weight"] == 0).sum()) == 2 * 32
    assert report.record.sparsity.blocks[0].experts == ()


def test_experts_that_are_computed_otherwise_stay_dense_and_it_is_said(pruned, moe, monkeypatch):
    from llmprune.models.open_experts import OpenExperts

    monkeypatch.setattr(OpenExperts, "are_as_stored", lambda *_: False)
    report, _ = pruned(moe, Method.SPARSEGPT, selection=Selection("0", frozenset({Part.FFN, Part.ATTENTION})))
    assert "mlp.experts computes its experts in an unknown way, and stays dense" in report.record.sparsity.remarks
    assert report.record.sparsity.blocks[0].experts == ()


class _Killed(BaseException):
    pass


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(pruned, moe, run, monkeypatch):
    whole, _ = pruned(moe, Method.SPARSELLM, rounds=1, out=run / "whole")
    calls, prune = itertools.count(), BlockPruning.prune

    def dying(self):
        if next(calls):
            raise _Killed
        return prune(self)

    monkeypatch.setattr(BlockPruning, "prune", dying)
    with pytest.raises(_Killed):
        pruned(moe, Method.SPARSELLM, rounds=1, out=run / "again")
    monkeypatch.setattr(BlockPruning, "prune", prune)
    again, _ = pruned(moe, Method.SPARSELLM, rounds=1, out=run / "again")
    one, other = weights(whole.directory), weights(again.directory)
    assert all(torch.equal(one[name], other[name]) for name in one)
    plain = [block.model_dump(exclude={"seconds"}) for block in whole.record.sparsity.blocks]
    assert [block.model_dump(exclude={"seconds"}) for block in again.record.sparsity.blocks] == plain


def test_what_has_no_room_in_memory_goes_to_files_and_the_result_is_the_same(pruned, moe, run, monkeypatch):
    settings = {"selection": Selection("0", FFN), "rounds": 1}
    one, _ = pruned(moe, Method.SPARSELLM, out=run / "one", **settings)
    monkeypatch.setattr("llmprune.stages.weight_pruning.estimate.MEMORY", 0)
    other, _ = pruned(moe, Method.SPARSELLM, out=run / "other", **settings)
    before, after = weights(one.directory), weights(other.directory)
    assert all(torch.equal(before[name], after[name]) for name in before)
