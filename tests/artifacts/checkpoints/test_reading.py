"""Tensors read into memory of their own."""

import pytest
import torch
from safetensors.torch import save_file

from llmprune.artifacts.checkpoints import reading
from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint


@pytest.mark.parametrize("large", [1, 40, 1 << 20])
def test_what_is_read_is_what_is_stored_and_large_tensors_can_go_one_by_one(large, tmp_path, monkeypatch):
    stored = {
        "a": torch.arange(10.0),
        "b": torch.ones(3, dtype=torch.bfloat16),
        "c": torch.arange(7),
        "d": torch.ones(0),
    }
    save_file(stored, tmp_path / "model.safetensors")
    monkeypatch.setattr(reading, "_LARGE", large)
    found = reading.read_tensors(open_checkpoint(tmp_path), stored)
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[name], stored[name]) for name in stored)
    storages = {name: tensor.untyped_storage().data_ptr() for name, tensor in found.items()}
    alone = [name for name in "abc" if stored[name].nbytes >= large]
    assert len({storages[name] for name in "abc"}) == len(alone) + (len(alone) < 3)
