"""Corrections against ridge regression solved row by row in float64, on explicit tokens."""

import pytest
import torch
from torch import Tensor

from llmprune.algorithms.healing import Correction, MomentsAccumulator, correct, remaining_error
from llmprune.algorithms.weights.patterns import SemiStructured, select_mask
from llmprune.errors import NumericalError
from tests.algorithms.problems import activations, normal, satisfies

TOKENS, INPUTS, OUTPUTS = 80, 12, 5


def problem(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Inputs whose mean is not zero, and what is lacking: a part that is linear in them, an offset, and noise."""
    inputs = activations(TOKENS, INPUTS, seed=0, dtype=torch.float64) + 0.7
    lacking = inputs @ normal(INPUTS, OUTPUTS, seed=3, dtype=torch.float64) + 2.0
    return inputs.to(dtype), (lacking + normal(TOKENS, OUTPUTS, seed=4, dtype=torch.float64)).to(dtype)


def ridge_by_tokens(
    inputs: Tensor, lacking: Tensor, ridge: float, *, bias: bool, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Stacked least squares on the tokens themselves, one row of the weight at a time, in float64."""
    mean = inputs.mean(0) if bias else torch.zeros(inputs.shape[1]).double()
    centred = inputs.double() - mean
    shift = ridge * float(centred.square().sum(0).mean())
    weight = torch.zeros(lacking.shape[1], inputs.shape[1], dtype=torch.float64)
    for row, kept in enumerate(mask):
        seen = centred[:, kept]
        goal = lacking[:, row].double() - (lacking[:, row].double().mean() if bias else 0)
        held = torch.cat([seen, shift**0.5 * torch.eye(seen.shape[1]).double()])
        weight[row, kept] = torch.linalg.lstsq(held, torch.cat([goal, torch.zeros(seen.shape[1]).double()])).solution
    return weight, lacking.double().mean(0) - weight @ inputs.double().mean(0)


@pytest.mark.parametrize("ridge", [1e-4, 0.1, 3.0])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_ridge_regression_on_the_kept_weights(bias, masked, ridge):
    inputs, lacking = problem()
    moments = MomentsAccumulator(bias=bias).update(inputs, lacking).result()
    mask = normal(OUTPUTS, INPUTS, seed=5) > -0.3 if masked else None
    found = correct(moments, ridge=ridge, mask=mask, steps=200)
    every = torch.ones(OUTPUTS, INPUTS, dtype=torch.bool)
    weight, offset = ridge_by_tokens(inputs, lacking, ridge, bias=bias, mask=every if mask is None else mask)
    torch.testing.assert_close(found.weight, weight, rtol=1e-6, atol=1e-8)
    assert found.ridge == ridge
    if bias:
        torch.testing.assert_close(found.bias, offset, rtol=1e-6, atol=1e-8)
    else:
        assert found.bias is None


@pytest.mark.parametrize("bias", [False, True])
def test_float32_is_close_to_float64(bias):
    inputs, lacking = problem(torch.float32)
    moments = MomentsAccumulator(bias=bias).update(inputs, lacking).result()
    weight, _ = ridge_by_tokens(inputs, lacking, 0.01, bias=bias, mask=torch.ones(OUTPUTS, INPUTS, dtype=torch.bool))
    found = correct(moments, ridge=0.01)
    assert found.weight.dtype == torch.float32
    assert float((found.weight - weight).norm() / weight.norm()) < 1e-4


@pytest.mark.parametrize("ridge", [1e-3, 0.1])
def test_the_usual_steps_come_close_to_the_best_that_a_mask_allows(ridge):
    inputs = activations(600, 96, seed=0, dtype=torch.float64)
    lacking = inputs @ normal(96, 7, seed=3, dtype=torch.float64) + normal(600, 7, seed=4, dtype=torch.float64)
    moments = MomentsAccumulator(bias=False).update(inputs, lacking).result()
    mask = normal(7, 96, seed=5) > 0
    exact, _ = ridge_by_tokens(inputs, lacking, ridge, bias=False, mask=mask)
    found = correct(moments, ridge=ridge, mask=mask)
    shift = ridge * float(moments.gram.diagonal().mean())
    best, ours = (
        remaining_error(moments, Correction(weight, None, ridge)) + shift * float(weight.square().sum())
        for weight in (exact, found.weight)
    )
    assert best * (1 - 1e-12) <= ours < best + 0.01 * moments.energy


def test_more_freedom_leaves_less_and_none_leaves_all():
    inputs, lacking = problem()
    moments = MomentsAccumulator(bias=True).update(inputs, lacking).result()
    mask = select_mask(normal(OUTPUTS, INPUTS, seed=6).abs()[:, :12], SemiStructured(2, 4))
    full, half = (remaining_error(moments, correct(moments, ridge=1e-6, mask=kept)) for kept in (None, mask))
    none = remaining_error(moments, correct(moments, ridge=1e-6, mask=torch.zeros_like(mask)))
    spread = float((lacking - lacking.mean(0)).square().sum())
    assert full < half < none
    assert none == pytest.approx(spread, rel=1e-9)


def test_what_a_mask_keeps_at_zero_stays_zero():
    inputs, lacking = problem()
    moments = MomentsAccumulator(bias=False).update(inputs, lacking).result()
    mask = select_mask(normal(OUTPUTS, INPUTS, seed=6).abs(), SemiStructured(2, 4))
    weight = correct(moments, ridge=0.01, mask=mask).weight
    assert satisfies(weight != 0, SemiStructured(2, 4))
    assert not weight[~mask].any()


def test_inputs_that_are_always_zero_are_left_alone():
    inputs, lacking = problem()
    inputs[:, 3] = 0
    moments = MomentsAccumulator(bias=False).update(inputs, lacking).result()
    for mask in (None, torch.ones(OUTPUTS, INPUTS, dtype=torch.bool)):
        weight = correct(moments, ridge=0.01, mask=mask).weight
        assert not weight[:, 3].any()
        assert weight[:, 4].all()


def test_nothing_lacking_is_no_correction():
    inputs, lacking = problem()
    moments = MomentsAccumulator(bias=True).update(inputs, torch.zeros_like(lacking)).result()
    found = correct(moments, ridge=0.01)
    assert not found.weight.any() and not found.bias.any()
    assert remaining_error(moments, found) == 0


def test_inputs_that_are_all_zero_cannot_be_solved_with():
    moments = MomentsAccumulator(bias=False).update(torch.zeros(9, 4), torch.ones(9, 2)).result()
    with pytest.raises(NumericalError, match="zero"):
        correct(moments, ridge=0.01)
