"""How often a Gram matrix is factored for the layers that share it, and that small scales change nothing."""

import pytest
import torch

from llmprune.algorithms.weights import shared_factors
from llmprune.algorithms.weights.layer import LayerMethod, LayerSettings, prune_layer
from llmprune.algorithms.weights.patterns import Unstructured
from llmprune.algorithms.weights.pruned import PrunedWeight, quadratic
from llmprune.algorithms.weights.shared_inputs import LayerTask, SharedInputs
from tests.algorithms.problems import layer

HALF = Unstructured(0.5)


@pytest.fixture
def made(monkeypatch):
    """The dampings of the factors behind masks, and of those behind targets, as they are made."""
    dampings: dict[str, list[float]] = {"factorise": [], "cholesky": []}
    for name, taken in dampings.items():
        make = getattr(shared_factors, name)

        def noted(gram, *, damping, make=make, taken=taken):
            taken.append(damping)
            return make(gram, damping=damping)

        monkeypatch.setattr(shared_factors, name, noted)
    return dampings


@pytest.mark.parametrize(
    ("method", "ridge", "targeted", "masks", "targets"),
    [
        (LayerMethod.SPARSEGPT, 0.3, True, [0.02], [0.3]),
        (LayerMethod.SPARSEGPT, 0.02, True, [0.02], []),  # one serves both
        (LayerMethod.SPARSEGPT, 0.3, False, [0.02], []),
        (LayerMethod.WANDA, 0.3, True, [], [0.3]),
        (LayerMethod.WANDA, 0.02, True, [], [0.02]),
        (LayerMethod.MAGNITUDE, 0.3, False, [], []),
    ],
)
def test_three_layers_take_each_factor_once(method, ridge, targeted, masks, targets, made):
    weight, gram = layer(6, 16, seed=1)
    settings = LayerSettings(HALF, damping=0.02, method=method)
    cross = weight @ gram
    task = LayerTask(weight, (lambda rows: cross[rows]) if targeted else None)
    SharedInputs(gram, settings, ridge=ridge).prune([task] * 3)
    assert made == {"factorise": masks, "cholesky": targets}


def test_the_factor_behind_masks_is_kept_for_layers_that_come_later(made):
    weight, gram = layer(6, 16, seed=1)
    inputs = SharedInputs(gram, LayerSettings(HALF, damping=0.02), ridge=0.3, again=True)
    task = LayerTask(weight, lambda rows: (weight @ gram)[rows])
    first, second = inputs.prune([task]), inputs.prune([task])
    assert made == {"factorise": [0.02], "cholesky": [0.3, 0.3]}
    assert torch.equal(first[0].weight, second[0].weight)


@pytest.mark.parametrize("steps", [1, 10])
def test_errors_below_one_are_refitted_as_large_ones_are(steps):
    weight, gram = layer(6, 16, seed=1, dtype=torch.float64)
    settings = LayerSettings(HALF, refit_steps=steps)
    large, small = (prune_layer(weight, scale * gram, settings) for scale in (2.0**10, 2.0**-30))
    plain = prune_layer(weight, 2.0**-30 * gram, LayerSettings(HALF, refit_steps=0))
    (shared,) = SharedInputs(2.0**-30 * gram, settings, ridge=0.3).prune([LayerTask(weight)])
    assert small.error < plain.error < 1
    assert torch.equal(small.weight, large.weight)
    assert torch.equal(shared.weight, large.weight)
    assert small.relative_error == pytest.approx(large.relative_error)


def test_an_error_is_never_negative_and_a_share_of_nothing_is_zero():
    odd = -torch.eye(3, dtype=torch.float64)  # as rounding may leave a Gram matrix
    assert quadratic(torch.ones(2, 3, dtype=torch.float64), odd) == 0
    nothing = PrunedWeight(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool), error=0.0, energy=0.0)
    assert nothing.relative_error == 0
