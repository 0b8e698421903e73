"""What magnitude, Wanda, SparseGPT, and SparseGPT with refit have in common."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmprune.algorithms.weights import magnitude, sparsegpt, wanda
from llmprune.algorithms.weights.layer import LayerSettings, prune_layer
from llmprune.algorithms.weights.patterns import SemiStructured, Unstructured, zero_count
from llmprune.errors import NumericalError, TargetError
from tests.algorithms.problems import activations, layer, normal


def with_refit(weight, gram, pattern, *, target=None):
    return prune_layer(weight, gram, LayerSettings(pattern), target=target)


METHODS = pytest.mark.parametrize(
    "prune",
    [magnitude.prune_linear, wanda.prune_linear, sparsegpt.prune_linear, with_refit],
    ids=["magnitude", "wanda", "sparsegpt", "refit"],
)
PATTERNS = pytest.mark.parametrize(
    "pattern",
    [Unstructured(0.5), Unstructured(0.731), Unstructured(0.99), SemiStructured(2, 4), SemiStructured(3, 4)],
    ids=str,
)


@METHODS
@PATTERNS
def test_zeros_are_exact(prune, pattern):
    weight, gram = layer(37, 200, seed=0)
    pruned = prune(weight, gram, pattern)
    if isinstance(pattern, Unstructured):
        assert pruned.zeros == zero_count(pattern.ratio, weight.numel())
    else:
        assert torch.all((~pruned.mask).view(37, -1, pattern.m).sum(2) == pattern.n)
    assert torch.equal(pruned.weight == 0, ~pruned.mask)


@METHODS
def test_sparsity_zero_is_the_identity(prune):
    weight, gram = layer(8, 20, seed=0)
    pruned = prune(weight, gram, Unstructured(0))
    assert torch.equal(pruned.weight, weight)
    assert pruned.weight.data_ptr() != weight.data_ptr()
    assert pruned.mask.all()
    assert pruned.error == 0 == pruned.relative_error


@METHODS
@PATTERNS
def test_inputs_are_not_changed_and_results_repeat_bit_for_bit(prune, pattern):
    weight, gram = layer(16, 140, seed=0)
    copies = weight.clone(), gram.clone()
    first, second = prune(weight, gram, pattern), prune(weight, gram, pattern)
    assert torch.equal(weight, copies[0])
    assert torch.equal(gram, copies[1])
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.mask, second.mask)
    assert first.error == second.error


@METHODS
def test_error_is_that_of_the_outputs(prune):
    inputs = activations(200, 24, seed=0, dtype=torch.float64)
    weight = normal(10, 24, seed=5, dtype=torch.float64)
    target = weight + 0.1 * normal(10, 24, seed=6, dtype=torch.float64)
    pruned = prune(weight, inputs.T @ inputs, Unstructured(0.5), target=target)
    difference = inputs @ (pruned.weight - target).T
    assert pruned.error == pytest.approx(float(difference.square().sum()), rel=1e-9)
    assert pruned.energy == pytest.approx(float((inputs @ target.T).square().sum()), rel=1e-9)
    assert pruned.relative_error == pruned.error / pruned.energy


@METHODS
def test_the_target_is_what_is_pruned(prune):
    weight, gram = layer(10, 24, seed=0)
    target = weight + 0.1 * normal(10, 24, seed=6)
    towards, alone = (
        prune(weight, gram, Unstructured(0.5), target=target),
        prune(target, gram, Unstructured(0.5)),
    )
    assert torch.equal(towards.weight, alone.weight)
    assert towards.error == alone.error


@METHODS
def test_the_dtype_of_the_weight_is_kept(prune):
    weight, gram = layer(10, 24, seed=0)
    pruned = prune(weight.bfloat16(), gram, SemiStructured(2, 4))
    assert pruned.weight.dtype == torch.bfloat16
    exact = prune(weight.bfloat16().float(), gram, SemiStructured(2, 4))
    assert torch.equal(pruned.mask, exact.mask)
    assert pruned.error == pytest.approx(exact.error, rel=0.1)


@METHODS
def test_groups_that_do_not_divide_the_inputs(prune):
    weight, gram = layer(4, 10, seed=0)
    with pytest.raises(TargetError, match="multiple of 4"):
        prune(weight, gram, SemiStructured(2, 4))


@METHODS
def test_nan_in_the_gram_matrix(prune):
    weight, gram = layer(4, 10, seed=0)
    gram[3, 3] = torch.nan
    with pytest.raises(NumericalError, match="NaN"):
        prune(weight, gram, Unstructured(0.5))


@METHODS
def test_nan_in_the_weight(prune):
    weight, gram = layer(4, 10, seed=0)
    weight[1, 2] = torch.nan
    with pytest.raises(NumericalError, match="NaN"):
        prune(weight, gram, Unstructured(0.5))


@pytest.mark.parametrize("option", [{"damping": -0.1}, {"damping": float("nan")}, {"block_size": 0}])
def test_settings_out_of_range(option):
    with pytest.raises(TargetError):
        LayerSettings(Unstructured(0.5), **option)


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(1, 12), columns=st.integers(1, 40), ratio=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_better_methods_have_smaller_errors_and_exact_zeros(rows, columns, ratio, seed):
    weight, gram = layer(rows, columns, seed=seed)
    plain = sparsegpt.prune_linear(weight, gram, Unstructured(ratio), block_size=7)
    refitted = prune_layer(weight, gram, LayerSettings(Unstructured(ratio), block_size=7))
    assert plain.zeros == refitted.zeros == zero_count(ratio, rows * columns)
    assert refitted.error <= plain.error
    assert torch.equal(plain.mask, refitted.mask)


def test_methods_rank_as_published():
    weight, gram = layer(64, 96, seed=3)
    pattern = Unstructured(0.6)
    errors = [
        prune(weight, gram, pattern).error
        for prune in (magnitude.prune_linear, wanda.prune_linear, sparsegpt.prune_linear, with_refit)
    ]
    assert errors == sorted(errors, reverse=True)
