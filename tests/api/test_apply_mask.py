"""Masks from Python: the model in memory and the checkpoint on disk are one result."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import llmprune
from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.artifacts.masks.mask import write_mask
from llmprune.errors import ArtifactError, TargetError
from tests.api.conftest import same_tensors, whole
from tests.tiny_models import SHAPE, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def pruned(checkpoint, tokens, tmp_path_factory):
    """A pruned checkpoint of a family."""

    def pruned(family):
        out = tmp_path_factory.mktemp(family) / "pruned"
        return llmprune.prune_weights(checkpoint(family), tokens, pattern="2:4", method="magnitude", out=out)

    return pruned


def sibling(family, directory):
    """A model of the same shapes with other weights, and its checkpoint."""
    model = tiny_model(family)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return model


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma2"])
def test_in_memory_it_is_what_the_command_writes(family, pruned, tmp_path):
    model = sibling(family, tmp_path / "sibling")
    made = pruned(family)
    ours = llmprune.apply_mask(model, made)
    theirs = llmprune.apply_mask(tmp_path / "sibling", made.directory, out=tmp_path / "theirs")
    assert same_tensors(ours, whole(theirs.directory))
    zeros = sum(int((parameter == 0).sum()) for parameter in ours.parameters())
    assert zeros >= theirs.record.masked.zeros > 0
    assert not any((parameter == 0).all() for parameter in model.parameters())
    assert "zeros in the masked weights" in repr(theirs)


def test_a_mask_file_does_the_same(pruned, tmp_path):
    made = pruned("llama")
    write_mask(open_checkpoint(made.directory), made.record.zeroed_tensors, tmp_path / "mask.safetensors")
    model = sibling("llama", tmp_path / "sibling")
    ours = llmprune.apply_mask(model, tmp_path / "mask.safetensors")
    assert same_tensors(ours, llmprune.apply_mask(model, made))
    assert same_tensors(ours, llmprune.apply_mask(tmp_path / "sibling", str(tmp_path / "mask.safetensors")))


def test_a_mask_of_another_model_is_refused(pruned, loaded, tmp_path):
    made = pruned("llama")
    with pytest.raises(ArtifactError, match="does not have"):
        llmprune.apply_mask(loaded("gpt2"), made)
    with pytest.raises(ArtifactError, match="made from 6 blocks, but this model has 5"):
        llmprune.apply_mask(llmprune.remove_blocks(loaded("llama"), [2]), made)
    wider = LlamaForCausalLM(LlamaConfig(**{**SHAPE, "intermediate_size": 64}))
    with pytest.raises(ArtifactError, match="with shape"):
        llmprune.apply_mask(wider, made)
    with pytest.raises(TargetError, match="`out="):
        llmprune.apply_mask(loaded("llama"), made, out=tmp_path / "masked")
