"""apply-mask on the command line: what it says, and how it refuses what is no mask of this model."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.artifacts.masks.mask import write_mask
from tests.checkpoints import save_shards
from tests.cli.world import refused
from tests.edits import content_of
from tests.tiny import save_tiny_llama

WEIGHT = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def mask(world):
    """A mask of half of the weights of one matrix of the model."""
    source = open_checkpoint(world.intact)
    tensors = source.load(source.tensors)
    tensors[WEIGHT] = tensors[WEIGHT] * (torch.arange(tensors[WEIGHT].numel()).view_as(tensors[WEIGHT]) % 2)
    write_mask(save_shards(world.folder / "pruned", tensors), [WEIGHT], world.folder / "mask", pattern="50%")
    return world.folder / "mask"


def test_it_tells_what_it_did(world, mask, llmprune):
    result = llmprune("apply-mask", world.model, mask, "--run", world.folder / "tuned")
    assert result.exit_code == 0, result.stderr
    assert "768 of the 1,536 weights in 1 tensors (50.00%) are zero, 0 were before" in result.stdout
    assert "Verified: all other bits are the source's" in result.stdout
    assert f"Written to {world.folder / 'tuned' / 'mine-masked-50pct'}" in result.stdout


def test_json_is_the_record_and_where_it_lies(world, mask, llmprune):
    out = world.folder / "out"
    words = ["apply-mask", world.model, mask, "--run", world.folder / "tuned", "--out", out, "--no-verify", "--json"]
    result = llmprune(*words)
    data = json.loads(result.stdout)
    assert data.pop("directory") == str(out)
    assert data == content_of(out / "llmprune.json")
    assert data["verification"] is None


def _text(path, **text):
    save_file({"w": np.zeros(1, np.uint8)}, path, metadata=text)


BROKEN = {
    "no file": (lambda world, mask: mask.unlink(), "mask cannot be read"),
    "a folder": (lambda world, mask: (mask.unlink(), mask.mkdir()), "mask/llmprune.json is missing"),
    "cut off": (lambda world, mask: mask.write_bytes(mask.read_bytes()[:-1]), "is cut off"),
    "a pickle": (lambda world, mask: mask.write_bytes(b"\x80\x04" * 50), "is no safetensors file"),
    "weights": (lambda world, mask: _text(mask, format="pt"), "is no mask of llmprune's: its kind is None"),
    "a newer schema": (lambda world, mask: _text(mask, kind="llmprune-mask", schema_version="2"), "has schema '2'"),
    "a model of other shapes": (
        lambda world, mask: save_tiny_llama(world.model, intermediate_size=40),
        f"masks {WEIGHT} with shape (48, 32), but in",
    ),
    "a deeper model": (lambda world, mask: save_tiny_llama(world.model, num_blocks=8), "was made from 6 blocks"),
    "a shallower model": (lambda world, mask: save_tiny_llama(world.model, num_blocks=1), f"masks {WEIGHT}, which"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_fit_is_one_sentence_and_leaves_nothing(case, world, mask, llmprune):
    damage, words = BROKEN[case]
    model = world.model
    damage(world, mask)
    complaint = refused(llmprune, world.folder, ["apply-mask", model, mask, "--run", world.folder / "tuned"])
    assert words in complaint


def test_the_run_of_another_model_is_refused(world, mask, llmprune):
    complaint = refused(llmprune, world.folder, ["apply-mask", world.model, mask, "--run", world.run])
    assert "type --run OTHER" in complaint
