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
    more = {name: tensor + 1 for name, tensor in tensors.items()}
    store.put("a", more)
    assert all(torch.equal(found, more[name]) for name, found in store.get("a").items())
    store.drop("a")
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_to_stay_goes_to_a_file_and_what_may_go_is_dropped(tmp_path):
    store = SpillingStore(tmp_path, budget=100)
    small, large = torch.randn(5), torch.randn(50)
    store.put("a", {"x": small}, keep=False)
    assert store.kept_bytes == 0
    assert torch.equal(store.get("a")["x"], small)
    store.put("a", {"x": small})
    assert (store.kept_bytes, list(tmp_path.iterdir())) == (20, [])
    store.put_if_room("b", {"x": small})
    store.put_if_room("c", {"x": large})
    assert ("b" in store, "c" in store) == (True, False)
    store.put_if_room("b", {})
    assert "b" not in store
