"""Working tensors in memory and in files read back alike, whole or in part."""

import pytest
import torch

from llmprune.artifacts.files.spill import SpillingStore


@pytest.mark.parametrize("budget", [1 << 20, 0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_those_of_what_was_put(budget, dtype, tmp_path):
    store = SpillingStore(tmp_path, budget=budget)
    tensors = {"inputs": torch.randn(10, 4).to(dtype), "gates": torch.randn(10)}
    store.put("a", tensors)
    assert (store.kept_bytes > 0) == (budget > 0)
    rows = torch.tensor([7, 0, 7])
    for name, found in store.rows("a", rows).items():
        assert torch.equal(found, tensors[name][rows])
        assert torch.equal(store.get("a")[name], tensors[name])
    store.drop("a")
    assert list(tmp_path.iterdir()) == []
