import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from llmprune.algorithms.weights import magnitude, sparsegpt
from llmprune.algorithms.weights.layer import LayerSettings, prune_layer
from llmprune.algorithms.weights.patterns import Unstructured
from llmprune.algorithms.weights.refit import refit
from tests.algorithms.problems import layer, normal
from tests.reference import refit_exactly


def test_many_steps_reach_the_least_squares_solution():
    weight, gram = layer(6, 20, seed=0, dtype=torch.float64)
    target = weight + 0.1 * normal(6, 20, seed=9, dtype=torch.float64)
    pruned = sparsegpt.prune_linear(weight, gram, Unstructured(0.6), target=target)
    result = refit(pruned, gram, target=target, steps=200)
    torch.testing.assert_close(result.weight, refit_exactly(pruned.mask, gram, target), rtol=1e-6, atol=1e-6)
    assert torch.equal(result.mask, pruned.mask)
    assert result.damping == pruned.damping


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 999),
    ratio=st.floats(0.0, 0.95),
    steps=st.integers(0, 25),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_never_raises_the_error(seed, ratio, steps, dtype):
    weight, gram = layer(5, 12, seed=seed)
    pruned = magnitude.prune_linear(weight.to(dtype), gram, Unstructured(ratio), target=weight)
    result = refit(pruned, gram, target=weight, steps=steps)
    assert result.error <= pruned.error
    assert result.weight.dtype == dtype
    assert not result.weight[~result.mask].any()


def test_what_is_best_already_stays_bit_for_bit():
    weight, _ = layer(5, 12, seed=0)
    pruned = magnitude.prune_linear(weight, torch.eye(12), Unstructured(0.5))
    assert torch.equal(refit(pruned, torch.eye(12), target=weight).weight, pruned.weight)


def test_dead_inputs_stay_put():
    weight, gram = layer(5, 12, seed=0)
    gram[3] = 0
    gram[:, 3] = 0
    pruned = magnitude.prune_linear(weight, gram, Unstructured(0.5))
    result = refit(pruned, gram, target=weight)
    assert result.error < pruned.error
    assert torch.equal(result.weight[:, 3], pruned.weight[:, 3])


def test_inputs_are_not_changed():
    weight, gram = layer(5, 12, seed=0)
    pruned = magnitude.prune_linear(weight, gram, Unstructured(0.5))
    copies = weight.clone(), gram.clone(), pruned.weight.clone(), pruned.mask.clone()
    refit(pruned, gram, target=weight)
    for tensor, copy in zip((weight, gram, pruned.weight, pruned.mask), copies, strict=True):
        assert torch.equal(tensor, copy)


class Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket is torch.ops.aten.mm
        return func(*args, **(kwargs or {}))


def test_the_product_that_the_error_was_measured_with_is_not_made_again():
    weight, inputs = torch.randn(12, 16), torch.randn(64, 16)
    gram = inputs.T @ inputs
    chosen = sparsegpt.prune_linear(weight, gram, Unstructured(0.5))
    found, counted = [], []
    for missing in (chosen.missing, None):
        with Products() as products:
            found.append(refit(chosen, gram, target=weight, steps=3, missing=missing))
        counted.append(products.count)
    assert counted == [4, 5]  # a step each, and the error of what came out
    assert torch.equal(found[0].weight, found[1].weight)
    assert found[0].error == found[1].error < chosen.error


def test_what_a_layer_gives_holds_no_product():
    weight, inputs = torch.randn(12, 16), torch.randn(64, 16)
    for steps in (0, 3):
        assert (
            prune_layer(weight, inputs.T @ inputs, LayerSettings(Unstructured(0.5), refit_steps=steps)).missing is None
        )
