"""Devices by the names that torch has for them, and the precision of products on them."""

import pytest
import torch

from llmprune.errors import TargetError
from llmprune.models.compute import choose_compute
from llmprune.models.devices import exact_products, find_device, half_products, numbered, untested, wait_for


@pytest.fixture
def accelerator(monkeypatch):
    """An accelerator with two devices that torch computes on, as on a machine with Intel GPUs."""
    waited = []
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("xpu"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 1)
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda device: (10_000, 20_000))
    monkeypatch.setattr(torch.accelerator, "memory_allocated", lambda device: 0)
    return waited


def test_an_accelerator_that_torch_names_is_taken_and_said_to_be_untested(accelerator):
    assert str(find_device("xpu")) == "xpu:1"
    assert numbered(torch.device("xpu")) == torch.device("xpu:1")
    compute = choose_compute("xpu:0")
    assert compute.free_bytes() == 9_000
    assert "never tried on 'xpu'" in untested(compute.device)
    assert untested(torch.device("cpu")) is untested(torch.device("cuda:0")) is None
    wait_for(compute.device)
    assert accelerator == [torch.device("xpu:0")]
    for other in ("xpu:2", "mps", "cuda"):
        with pytest.raises(TargetError, match="no device"):
            find_device(other)


def precisions():
    return torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.bfloat16, ("tf32", "bf16")), (torch.float16, ("tf32", None)), (torch.float32, ("ieee", None))],
)
def test_products_are_rounded_only_where_the_activations_were(dtype, expected):
    before = precisions()
    with half_products(dtype):
        assert precisions() == (expected[0], expected[1] or before[1])
        with exact_products():
            assert precisions()[0] == "ieee"
        assert precisions()[0] == expected[0]
    assert precisions() == before


def test_blocks_run_without_tf32_whatever_was_set(checkpoint):
    from llmprune.models.loading import open_decoder

    decoder, seen = open_decoder(checkpoint("llama"), device=torch.device("cpu")), []
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    with decoder.block(0), half_products(torch.bfloat16):
        hidden, call = decoder.runner.entries(tokens)[0]
        hook = decoder.blocks[0].register_forward_hook(lambda *_: seen.append(precisions()[0]))
        decoder.runner.forward_block(0, hidden, call)
        hook.remove()
    assert seen == ["ieee"]
