"""On every device that is there, in float32, the same as on the CPU in float64."""

from dataclasses import replace

import pytest
import torch

from llmprune.algorithms.feed_forward.activation import GELU, SILU
from llmprune.algorithms.feed_forward.network import GatedFfn, Linear
from llmprune.algorithms.feed_forward.sparsellm import FfnSettings, prune_ffn
from llmprune.algorithms.healing import MomentsAccumulator, correct
from llmprune.algorithms.weights.layer import LayerMethod, LayerSettings, prune_layer
from llmprune.algorithms.weights.patterns import SemiStructured, Unstructured
from llmprune.choices import Reference
from tests.algorithms.problems import activations, chunks_of, gated_ffn, layer, normal, plain_ffn, satisfies

WIDE = torch.float64
ON_CPU = torch.device("cpu")


def moved(tensor, device):
    """In float32 on a device."""
    return None if tensor is None else tensor.to(device, torch.float32)


def moved_ffn(ffn, device):
    names = ("up", "gate", "down") if isinstance(ffn, GatedFfn) else ("up", "down")
    linears = {name: getattr(ffn, name) for name in names}
    return replace(
        ffn, **{name: Linear(moved(one.weight, device), moved(one.bias, device)) for name, one in linears.items()}
    )


@pytest.mark.parametrize("pattern", [Unstructured(0.6), SemiStructured(2, 4)], ids=str)
@pytest.mark.parametrize("method", LayerMethod)
def test_a_layer(method, pattern, device):
    weight, gram = layer(24, 32, seed=3, dtype=WIDE)
    settings = LayerSettings(pattern, method=method)
    expected = prune_layer(weight, gram, settings)
    found = prune_layer(moved(weight, device), moved(gram, device), settings)
    assert found.weight.device.type == device.type
    assert satisfies(found.mask, pattern)
    assert (found.mask.cpu() == expected.mask).double().mean() > 0.99
    assert found.relative_error == pytest.approx(expected.relative_error, rel=1e-3)


@pytest.mark.parametrize("reference", Reference)
@pytest.mark.parametrize("kind", ["gated", "plain"])
def test_an_ffn(kind, reference, device):
    ffn = (
        gated_ffn(16, 40, seed=5, dtype=WIDE, activation=SILU)
        if kind == "gated"
        else plain_ffn(16, 40, seed=5, dtype=WIDE, activation=GELU)
    )
    settings = FfnSettings(LayerSettings(Unstructured(0.5)), reference=reference, rounds=2)
    chunks = chunks_of(ffn, seed=7)
    there = [
        replace(chunk, **{name: moved(value, device) for name, value in vars(chunk).items() if torch.is_tensor(value)})
        for chunk in chunks
    ]
    expected = prune_ffn(ffn, chunks, settings)
    found = prune_ffn(moved_ffn(ffn, device), there, settings)
    assert found.best.down.weight.device.type == device.type
    assert found.relative_errors == pytest.approx(expected.relative_errors, rel=5e-2)
    assert found.best.up.zeros == expected.best.up.zeros


@pytest.mark.parametrize("masked", [False, True])
def test_a_correction(masked, device):
    inputs, lacking = activations(200, 12, seed=1, dtype=WIDE), normal(200, 6, seed=2, dtype=WIDE)
    mask = normal(6, 12, seed=3) > 0 if masked else None

    def corrected(inputs, lacking, mask):
        return correct(MomentsAccumulator(bias=True).update(inputs, lacking).take(), ridge=0.1, mask=mask)

    expected = corrected(inputs, lacking, mask)
    found = corrected(moved(inputs, device), moved(lacking, device), None if mask is None else mask.to(device))
    assert found.weight.device.type == device.type
    torch.testing.assert_close(found.weight.to(ON_CPU, WIDE), expected.weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.bias.to(ON_CPU, WIDE), expected.bias, rtol=1e-3, atol=1e-4)
