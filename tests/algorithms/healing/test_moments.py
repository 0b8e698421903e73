"""Moments: streamed or at once, and with the row of ones that a bias takes."""

import pytest
import torch

from llmprune.algorithms.healing import Correction, MomentsAccumulator, remaining_error
from tests.algorithms.problems import activations, normal
from tests.algorithms.processes import by_threads


@pytest.mark.parametrize("bias", [False, True])
def test_streamed_moments_are_those_of_all_tokens_at_once(bias):
    inputs = activations(90, 12, seed=0, dtype=torch.float64)
    lacking = normal(90, 5, seed=7, dtype=torch.float64)
    streamed = MomentsAccumulator(bias=bias)
    for part, lacks in zip(inputs.split(40), lacking.split(40), strict=True):
        streamed.update(part, lacks)
    found = streamed.result()
    whole = torch.cat([inputs, torch.ones(90, 1, dtype=torch.float64)], dim=1) if bias else inputs
    torch.testing.assert_close(found.gram, whole.T @ whole)
    torch.testing.assert_close(found.cross, lacking.T @ whole)
    assert found.energy == pytest.approx(float(lacking.square().sum()))


def test_narrow_chunks_are_summed_in_float32_and_left_as_they_are():
    inputs, lacking = activations(30, 6, seed=1, dtype=torch.bfloat16), normal(30, 4, seed=2, dtype=torch.bfloat16)
    copies = inputs.clone(), lacking.clone()
    found = MomentsAccumulator(bias=True).update(inputs, lacking).result()
    assert found.gram.dtype == found.cross.dtype == torch.float32
    torch.testing.assert_close(found.cross[:, :-1], lacking.float().T @ inputs.float())
    assert torch.equal(inputs, copies[0]) and torch.equal(lacking, copies[1])


@pytest.mark.parametrize("bias", [False, True])
def test_the_error_that_remains_is_what_is_lacking_less_what_the_correction_gives(bias):
    inputs, lacking = activations(50, 8, seed=3, dtype=torch.float64), normal(50, 5, seed=4, dtype=torch.float64)
    moments = MomentsAccumulator(bias=bias).update(inputs, lacking).result()
    change = normal(5, 8, seed=5, dtype=torch.float64)
    shift = normal(5, seed=6, dtype=torch.float64) if bias else None
    given = inputs @ change.T + (0 if shift is None else shift)
    expected = float((lacking - given).square().sum())
    assert remaining_error(moments, Correction(change, shift, 0.0)) == pytest.approx(expected, rel=1e-10)


def test_no_tokens_are_no_moments():
    with pytest.raises(ValueError, match="No chunk"):
        MomentsAccumulator(bias=False).result()


@pytest.mark.parametrize("bias", [False, True])
def test_a_token_counts_by_the_square_of_its_weight(bias):
    inputs, lacking = activations(20, 4, seed=1, dtype=torch.float64), normal(20, 3, seed=2, dtype=torch.float64)
    weights = normal(20, seed=3, dtype=torch.float64)
    found = MomentsAccumulator(bias=bias).update(inputs, lacking, weights=weights.float()).result()
    whole = torch.cat([inputs, torch.ones(20, 1, dtype=torch.float64)], dim=1) if bias else inputs
    squares = weights.float().double().square()
    torch.testing.assert_close(found.gram, whole.T @ (squares[:, None] * whole))
    torch.testing.assert_close(found.cross, lacking.T @ (squares[:, None] * whole))
    assert found.energy == pytest.approx(float((squares[:, None] * lacking.square()).sum()))


def test_what_is_taken_is_the_result_and_the_sums_begin_anew():
    inputs, lacking = activations(20, 4, seed=1, dtype=torch.float64), normal(20, 3, seed=2, dtype=torch.float64)
    sums = MomentsAccumulator(bias=True).update(inputs, lacking)
    whole, taken = sums.result(), sums.take()
    assert torch.equal(taken.gram, whole.gram) and torch.equal(taken.cross, whole.cross)
    assert (taken.energy, taken.bias) == (whole.energy, True)
    assert whole.energy == pytest.approx(float(lacking.square().sum()))
    (half, *_) = by_threads(3, lambda thread: MomentsAccumulator(bias=True).update(inputs, lacking / 2).take(thread))
    torch.testing.assert_close(half.gram, 3 * whole.gram)
    torch.testing.assert_close(half.cross, 1.5 * whole.cross)
    assert half.energy == pytest.approx(0.75 * whole.energy)
