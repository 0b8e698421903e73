"""global-prune: resumable to the byte, honest about what it did, and never worse than its first round."""

import itertools
import shutil
from functools import cache

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from llmprune.algorithms.weights.patterns import SemiStructured, Unstructured
from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.choices import Method, Reference
from llmprune.errors import ArtifactError, NumericalError, TargetError
from llmprune.evaluation.sparsity import measure_sparsity
from llmprune.models.compute import choose_compute
from llmprune.stages.block_removal import RemovalSettings, remove_blocks
from llmprune.stages.calibration import calibrate
from llmprune.stages.common.workspace import open_workspace
from llmprune.stages.weight_pruning import PruningSettings, Selection, global_prune, parse_layers
from llmprune.stages.weight_pruning.block import BlockPruning
from tests.tiny import NUM_BLOCKS, Listener, save_tiny_llama, snapshot

HALF = Unstructured(0.5)


def weights(directory):
    return load_file(directory / "model.safetensors")


@pytest.mark.parametrize("reference", Reference)
@pytest.mark.parametrize("method", Method)
def test_every_method_prunes_towards_either_reference(method, reference, workspace):
    report = global_prune(workspace, PruningSettings(HALF, method, reference=reference, rounds=2))
    sparsity = report.record.sparsity
    assert sparsity.zeros == sparsity.numel // 2
    assert [block.ffn is not None for block in sparsity.blocks] == [method is Method.SPARSELLM] * NUM_BLOCKS
    assert all(matrix.error < 1 for block in sparsity.blocks for matrix in block.matrices)
    assert workspace.run.newest_checkpoint() == report.directory


class _Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, calibrated, model):
    """The weights that a run gives which nothing stops, by its reference."""

    @cache
    def uninterrupted(reference):
        run = tmp_path_factory.mktemp("whole") / "run"
        shutil.copytree(calibrated, run)
        space = open_workspace(run, str(model), compute=choose_compute("cpu"))
        return weights(
            global_prune(space, PruningSettings(HALF, reference=reference, rounds=2, verify=False)).directory
        )

    return uninterrupted


@pytest.mark.parametrize(("dies_at", "reference"), [(1, Reference.DENSE), (4, Reference.DENSE), (4, Reference.PRUNED)])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(
    dies_at, reference, workspace, uninterrupted, monkeypatch, listener
):
    settings = PruningSettings(HALF, reference=reference, rounds=2, verify=False)
    whole = uninterrupted(reference)
    calls = itertools.count()
    prune = BlockPruning.prune

    def dying(self):
        if next(calls) == dies_at:
            raise _Killed
        return prune(self)

    monkeypatch.setattr(BlockPruning, "prune", dying)
    with pytest.raises(_Killed):
        global_prune(workspace, settings)
    monkeypatch.setattr(BlockPruning, "prune", prune)
    seen = []
    report = global_prune(workspace, settings, on_block=lambda block: seen.append(block.block))
    assert seen == list(range(dies_at, NUM_BLOCKS))
    assert f"Going on at block {dies_at} of {NUM_BLOCKS}." in listener.said
    again = weights(report.directory)
    assert all(torch.equal(again[name], weight) for name, weight in whole.items())
    assert [block.block for block in report.record.sparsity.blocks] == list(range(NUM_BLOCKS))
    assert not report.directory.with_name(f"{report.directory.name}.partial").exists()


def test_a_stopped_pass_with_a_damaged_file_begins_anew(workspace, monkeypatch):
    settings = PruningSettings(HALF, rounds=1, verify=False)
    prune = BlockPruning.prune
    calls = itertools.count()
    monkeypatch.setattr(
        BlockPruning,
        "prune",
        lambda self: prune(self) if next(calls) < 2 else (_ for _ in ()).throw(_Killed()),
    )
    with pytest.raises(_Killed):
        global_prune(workspace, settings)
    monkeypatch.setattr(BlockPruning, "prune", prune)
    (shard,) = workspace.run.path.glob("*.partial/block-00001.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1] + b"\1")
    seen = []
    global_prune(workspace, settings, on_block=lambda block: seen.append(block.block))
    assert seen == list(range(NUM_BLOCKS))


def test_what_was_made_before_is_kept_and_other_settings_are_another_checkpoint(workspace, listener):
    first = global_prune(workspace, PruningSettings(HALF, rounds=1))
    again = global_prune(workspace, PruningSettings(HALF, rounds=1), on_block=lambda _: pytest.fail("pruned again"))
    assert again.record == first.record
    assert f"{first.directory} is complete already: nothing to do." in listener.said
    other = global_prune(workspace, PruningSettings(SemiStructured(2, 4), rounds=1))
    assert other.directory != first.directory


def test_only_the_selected_matrices_change(workspace, model):
    selection = Selection("1,3-4", frozenset({"attention"}), ("*.k_proj",))
    report = global_prune(workspace, PruningSettings(HALF, selection=selection, verify=False))
    before, after = weights(model), weights(report.directory)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    kinds = ("q_proj", "v_proj", "o_proj")
    assert changed == {f"model.layers.{block}.self_attn.{kind}.weight" for block in (1, 3, 4) for kind in kinds}


def test_a_part_of_an_ffn_that_stays_dense_is_pruned_matrix_by_matrix_and_said(workspace):
    report = global_prune(workspace, PruningSettings(HALF, selection=Selection(exclude=("*.gate_proj",))))
    assert any("mlp.gate_proj is to stay dense" in remark for remark in report.record.sparsity.remarks)
    assert all(block.ffn is None for block in report.record.sparsity.blocks)


def test_no_sparsity_changes_no_bit(workspace, model):
    for method in Method:
        report = global_prune(workspace, PruningSettings(Unstructured(0), method, verify=False))
        before, after = weights(model), weights(report.directory)
        assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_the_kept_round_is_never_worse_than_the_first(workspace):
    report = global_prune(workspace, PruningSettings(Unstructured(0.7), verify=False))
    assert all(b.ffn.errors[b.ffn.kept] <= b.ffn.errors[0] for b in report.record.sparsity.blocks)


def captured(directory, block, tokens):
    """What the FFN of a block is given and gives, and what leaves the block, by the plain model."""
    model, seen = AutoModelForCausalLM.from_pretrained(directory).eval(), {}
    layer = model.model.layers[block]
    layer.mlp.register_forward_hook(lambda module, args, output: seen.update(inputs=args[0], outputs=output))
    layer.register_forward_hook(lambda module, args, output: seen.update(leaving=output))
    with torch.no_grad():
        model(tokens, use_cache=False)
    return seen, layer.mlp


@pytest.fixture(scope="module")
def difficult(tmp_path_factory, settings):
    """A model of large random weights in a run of its own, and its calibration tokens, by seed.

    Here the alternation alone ends worse than SparseGPT with four of five seeds by the papers' protocol, and with one
    of them towards the dense model.
    """

    @cache
    def difficult(seed):
        folder = tmp_path_factory.mktemp("difficult")
        model = save_tiny_llama(folder / "model", seed=seed, num_blocks=2, initializer_range=1.0)
        space = open_workspace(folder / "run", str(model), compute=choose_compute("cpu"))
        return space, calibrate(space, settings).tokens()

    return difficult


@pytest.mark.parametrize("reference", Reference)
@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_sparsellm_is_never_worse_than_the_other_command(seed, reference, difficult):
    space, tokens = difficult(seed)
    model = space.directory
    refit = 0 if reference is Reference.PRUNED else 10
    dense, dense_ffn = captured(model, 0, tokens)
    errors = {}
    for method in (Method.SPARSEGPT, Method.SPARSELLM):
        report = global_prune(
            space,
            PruningSettings(
                Unstructured(0.9),
                method,
                Selection("0"),
                reference=reference,
                refit_steps=refit,
                out=space.run.path / f"{method.value}-{reference.value}",
                verify=False,
            ),
        )
        pruned, _ = captured(report.directory, 0, tokens)
        # The papers' goal is the dense FFN on these inputs, the other one the dense model's own output of the block.
        with torch.no_grad():
            goal = dense_ffn(pruned["inputs"]) if reference is Reference.PRUNED else dense["leaving"]
        given = pruned["outputs"] if reference is Reference.PRUNED else pruned["leaving"]
        errors[method] = float((given - goal).double().square().sum())
    assert errors[Method.SPARSELLM] <= errors[Method.SPARSEGPT] * 1.0001
    (ffn,) = (block.ffn for block in report.record.sparsity.blocks)
    assert len(ffn.errors) >= 2
    kept = ffn.errors[ffn.kept]
    assert ffn.errors[0] * errors[Method.SPARSELLM] == pytest.approx(kept * errors[Method.SPARSEGPT], rel=1e-3)


def test_depth_and_sparsity_combine(workspace, run, tmp_path, text, settings):
    cut = remove_blocks(workspace, RemovalSettings(blocks=(2, 3))).directory
    second = open_workspace(tmp_path / "second", str(cut), compute=choose_compute("cpu"))
    report = global_prune(second, PruningSettings(HALF, rounds=1), calibration=settings)
    assert report.record.num_blocks == NUM_BLOCKS - 2
    assert report.record.source_record.removal.removed == (2, 3)
    third = open_workspace(
        tmp_path / "third", str(report.directory), compute=choose_compute("cpu"), progress=(said := Listener())
    )
    denser = global_prune(third, PruningSettings(Unstructured(0.6), rounds=1), calibration=settings)
    assert denser.record.sparsity.zeros_before == report.record.sparsity.zeros
    assert any("50.0% of the weights to prune are zero" in text for text in said.said)


def test_the_written_files_are_what_is_counted(workspace):
    report = global_prune(workspace, PruningSettings(SemiStructured(3, 4), rounds=2))
    names = [matrix.tensor for block in report.record.sparsity.blocks for matrix in block.matrices]
    counted = measure_sparsity(open_checkpoint(report.directory), names, SemiStructured(3, 4))
    assert (counted.zeros, counted.violations) == (report.record.sparsity.zeros, 0)


def test_a_calibration_that_is_missing_is_made_first(open_run, settings, listener):
    report = global_prune(open_run(), PruningSettings(HALF, rounds=1, samples=5), calibration=settings)
    assert report.record.sparsity.settings.windows == 5
    assert any("drawing its windows first" in said for said in listener.said)


def test_few_tokens_are_remarked(workspace, listener):
    global_prune(workspace, PruningSettings(HALF, Method.MAGNITUDE, samples=1))
    assert any("32 calibration tokens are fewer than the 48 inputs" in said for said in listener.said)


def test_a_pattern_that_does_not_fit_names_the_matrix_before_anything_is_run(open_run, run):
    with pytest.raises(TargetError, match=r"model\.layers\.0\.self_attn\.q_proj\.weight: The pattern 2:5 needs"):
        global_prune(open_run(), PruningSettings(SemiStructured(2, 5)))
    assert not run.exists()


def test_a_calibration_of_another_model_is_refused(workspace, tmp_path, settings):
    other = save_tiny_llama(tmp_path / "other", seed=1)
    elsewhere = open_workspace(tmp_path / "elsewhere", str(other), compute=choose_compute("cpu"))
    with pytest.raises(ArtifactError, match="is a calibration of tiny"):
        global_prune(elsewhere, PruningSettings(HALF, calibration=workspace.run.calibration))


def test_activations_that_are_not_finite_name_the_block(tmp_path, settings):
    broken = save_tiny_llama(tmp_path / "broken")
    path = broken / "model.safetensors"
    stored = load_file(path)
    stored["model.layers.2.mlp.up_proj.weight"] *= 1e30
    stored["model.layers.2.mlp.gate_proj.weight"] *= 1e30
    save_file(stored, path, {"format": "pt"})
    space = open_workspace(tmp_path / "run", str(broken), compute=choose_compute("cpu"))
    with pytest.raises(NumericalError, match="Block 2"):
        global_prune(space, PruningSettings(HALF), calibration=settings)


@pytest.mark.parametrize(
    ("text", "blocks"),
    [("all", (0, 1, 2, 3, 4)), ("first-half", (0, 1)), ("1-3", (1, 2, 3)), ("4,0,2-3", (0, 2, 3, 4)), ("0", (0,))],
)
def test_layers_are_read(text, blocks):
    assert parse_layers(text, depth=5) == blocks


@pytest.mark.parametrize("text", ["", "5", "0-5", "3-1", "-1", "a", "1..3", "half"])
def test_other_layers_are_refused(text):
    with pytest.raises(TargetError, match="`layers="):
        parse_layers(text, depth=5)


def test_snapshot_of_the_source_is_untouched(workspace, model):
    before = snapshot(model)
    global_prune(workspace, PruningSettings(HALF, rounds=1))
    assert snapshot(model) == before
