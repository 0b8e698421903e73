"""apply-mask: a fine-tuned sibling gets the zeros and keeps every other bit; whatever does not fit is refused."""

import json
import shutil
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from llmprune.algorithms.weights.patterns import SemiStructured, Unstructured
from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.artifacts.masks.mask import MASK_NAME, read_mask, write_mask
from llmprune.artifacts.records.pruning import PruningRecord
from llmprune.choices import Method
from llmprune.errors import ArtifactError, OutputExistsError, VerificationError
from llmprune.evaluation.sparsity import measure_sparsity
from llmprune.models.compute import choose_compute
from llmprune.stages.block_removal import RemovalSettings, remove_blocks
from llmprune.stages.common.workspace import open_workspace
from llmprune.stages.masking import MaskSettings, apply_mask, stage
from llmprune.stages.weight_pruning import PruningSettings, global_prune
from tests.tiny import NUM_BLOCKS, save_tiny_llama, snapshot


def weights_of(directory):
    return {name: tensor for path in directory.glob("*.safetensors") for name, tensor in load_file(path).items()}


def fine_tuned(model, directory, *, dtype=torch.float32, **options):
    """All weights moved a little, saved by transformers."""
    tuned = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(dtype), alpha=0.01)
    shutil.copytree(model, directory)
    (directory / "model.safetensors").unlink()
    tuned.save_pretrained(directory, **options)
    return directory


@pytest.fixture
def pruned(workspace):
    return global_prune(workspace, PruningSettings(SemiStructured(2, 4), Method.MAGNITUDE))


@pytest.fixture
def mask(pruned, tmp_path):
    write_mask(
        open_checkpoint(pruned.directory), pruned.record.pruned_tensors, tmp_path / "mask.safetensors", pattern="2:4"
    )
    return tmp_path / "mask.safetensors"


@pytest.fixture
def sibling(model, tmp_path):
    return fine_tuned(model, tmp_path / "tuned")


@pytest.fixture
def open_sibling(tmp_path, listener):
    def open_it(directory, **options):
        return open_workspace(
            tmp_path / "tuned-run", str(directory), compute=choose_compute("cpu"), progress=listener, **options
        )

    return open_it


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sibling_is_zero_where_the_mask_says_and_itself_elsewhere(dtype, pruned, mask, model, tmp_path, open_sibling):
    sibling = fine_tuned(model, tmp_path / "tuned", dtype=dtype, max_shard_size="40KB")
    before = snapshot(sibling)
    report = apply_mask(open_sibling(sibling), MaskSettings(mask, max_shard_bytes=30_000))
    assert snapshot(sibling) == before
    dense, zeroed, masked = (weights_of(path) for path in (sibling, pruned.directory, report.directory))
    assert masked.keys() == dense.keys()
    names = pruned.record.pruned_tensors
    for name, weight in dense.items():
        expected = torch.where(zeroed[name] == 0, 0, weight) if name in names else weight
        assert torch.equal(masked[name], expected)
    counted = measure_sparsity(open_checkpoint(report.directory), names, SemiStructured(2, 4))
    assert (counted.ratio, counted.violations) == (0.5, 0)
    logits = AutoModelForCausalLM.from_pretrained(report.directory)(torch.arange(4)[None]).logits
    assert logits.isfinite().all()


def test_the_record_says_what_was_done_from_what(pruned, mask, sibling, open_sibling):
    workspace = open_sibling(sibling)
    report = apply_mask(workspace, MaskSettings(mask))
    record = PruningRecord.read(report.directory / "llmprune.json")
    assert record == report.record
    assert report.directory == workspace.run.path / "tuned-masked-2of4"
    assert record.source == workspace.model
    assert record.masked.fingerprint == open_checkpoint(pruned.directory).fingerprint() == read_mask(mask).fingerprint
    assert set(record.masked.tensors) == set(pruned.record.pruned_tensors)
    assert (record.masked.zeros, record.masked.zeros_before) == (record.masked.numel // 2, 0)
    assert record.command == (
        "llmprune apply-mask tuned mask.safetensors --run tuned-run --out tuned-run/tuned-masked-2of4"
    )
    assert record.verification.generated_tokens > 0
    assert "of another pruned model (weights of fingerprint" in (report.directory / "README.md").read_text()
    assert (report.directory / "tokenizer.json").is_file()
    assert workspace.run.newest_checkpoint() == report.directory


def test_the_mask_of_a_pruned_checkpoint_changes_nothing_of_itself(pruned, mask, open_sibling):
    report = apply_mask(open_sibling(pruned.directory), MaskSettings(mask))
    before, after = weights_of(pruned.directory), weights_of(report.directory)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert report.record.source_record == pruned.record
    assert report.record.masked.zeros_before == report.record.masked.zeros


def test_what_was_made_before_is_kept_and_another_mask_needs_force(pruned, mask, sibling, open_sibling, listener):
    out = sibling.with_name("out")
    first = apply_mask(open_sibling(sibling), MaskSettings(mask, out))
    before = snapshot(out)
    assert apply_mask(open_sibling(sibling), MaskSettings(mask, out)).record == first.record
    assert snapshot(out) == before
    assert listener.heard("is complete already: nothing to do.")
    other = mask.with_name("other")
    write_mask(open_checkpoint(pruned.directory), pruned.record.pruned_tensors[:3], other)
    with pytest.raises(OutputExistsError, match=r"other settings \(another mask\); .* `force=True`"):
        apply_mask(open_sibling(sibling), MaskSettings(other, out))
    assert snapshot(out) == before
    assert len(apply_mask(open_sibling(sibling), MaskSettings(other, out, force=True)).record.masked.tensors) == 3


def test_a_mask_made_after_blocks_were_removed_asks_for_their_removal_first(
    open_run, model, settings, tmp_path, open_sibling
):
    cut = remove_blocks(open_run(), RemovalSettings(blocks=(2,))).directory
    second = open_workspace(tmp_path / "second", str(cut), compute=choose_compute("cpu"))
    pruned = global_prune(second, PruningSettings(Unstructured(0.5), Method.MAGNITUDE), calibration=settings)
    write_mask(open_checkpoint(pruned.directory), pruned.record.pruned_tensors, tmp_path / "m")
    whole = fine_tuned(model, tmp_path / "tuned")
    with pytest.raises(ArtifactError, match=rf"made from {NUM_BLOCKS - 1} blocks .* has {NUM_BLOCKS}; .*remove-blocks"):
        apply_mask(open_sibling(whole), MaskSettings(tmp_path / "m"))
    shorter = remove_blocks(open_sibling(whole), RemovalSettings(blocks=(2,))).directory
    third = open_workspace(tmp_path / "third", str(shorter), compute=choose_compute("cpu"))
    report = apply_mask(third, MaskSettings(tmp_path / "m"))
    assert report.record.masked.zeros == pruned.record.sparsity.zeros
    assert report.record.source_record.removal.removed == (2,)


def test_a_pruned_checkpoint_stands_for_its_mask(pruned, mask, sibling, open_sibling):
    workspace = open_sibling(sibling)
    by_file = apply_mask(workspace, MaskSettings(mask, sibling.with_name("by-file")))
    left = set(workspace.run.path.iterdir())
    directly = apply_mask(workspace, MaskSettings(pruned.directory, sibling.with_name("directly")))
    ours, theirs = weights_of(directly.directory), weights_of(by_file.directory)
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())
    assert directly.record.masked.mask == pruned.directory.name
    assert directly.record.masked.sha256 == by_file.record.masked.sha256
    assert set(workspace.run.path.iterdir()) == left
    again = apply_mask(workspace, MaskSettings(directly.directory, sibling.with_name("again")))
    assert again.record.masked.tensors == directly.record.masked.tensors
    assert again.record.masked.pattern == "2:4"


def test_a_published_mask_is_taken_from_beside_the_weights(pruned, mask, sibling, open_sibling):
    write_mask(open_checkpoint(pruned.directory), pruned.record.pruned_tensors[:2], pruned.directory / MASK_NAME)
    report = apply_mask(open_sibling(sibling), MaskSettings(pruned.directory))
    assert report.record.masked.tensors == tuple(sorted(pruned.record.pruned_tensors[:2]))


def test_a_checkpoint_without_pruned_weights_has_no_mask(open_run, sibling, open_sibling, tmp_path):
    cut = remove_blocks(open_run(), RemovalSettings(blocks=(2,))).directory
    with pytest.raises(ArtifactError, match="has no pruned weights, so no mask can be read from it"):
        apply_mask(open_sibling(sibling), MaskSettings(cut))
    assert not (tmp_path / "tuned-run").exists()


def test_a_file_written_wrong_is_set_aside(mask, sibling, open_sibling, monkeypatch, tmp_path):
    monkeypatch.setattr(stage, "zeroing", lambda mask: nullcontext(lambda *piece: None))
    out = tmp_path / "out"
    with pytest.raises(VerificationError, match=r"not written as it should be\. What was written is in .*out\.failed"):
        apply_mask(open_sibling(sibling), MaskSettings(mask, out=out))
    assert not out.exists()
    assert (tmp_path / "out.failed" / "model.safetensors").exists()


def test_a_broken_record_of_the_sibling_is_refused(mask, sibling, open_sibling):
    (sibling / "llmprune.json").write_text(json.dumps({"kind": "else"}))
    with pytest.raises(ArtifactError, match="is of kind 'else'"):
        apply_mask(open_sibling(sibling), MaskSettings(mask))


def test_a_narrower_sibling_is_refused(mask, tmp_path, open_sibling):
    other = save_tiny_llama(tmp_path / "narrow", intermediate_size=32)
    with pytest.raises(ArtifactError, match=r"masks model\.layers\.0\.mlp\.\w+\.weight with shape"):
        apply_mask(open_sibling(other), MaskSettings(mask))


def test_not_a_number_in_the_sibling_is_refused(mask, sibling, open_sibling):
    weights = load_file(sibling / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, sibling / "model.safetensors", {"format": "pt"})
    with pytest.raises(Exception, match=r"NaN or infinity in the weights model\.norm\.weight"):
        apply_mask(open_sibling(sibling), MaskSettings(mask))
