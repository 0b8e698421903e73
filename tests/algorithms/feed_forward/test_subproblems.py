import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmprune.algorithms.feed_forward.activation import GELU, GELU_TANH, QUICK_GELU, RELU, SILU
from llmprune.algorithms.feed_forward.network import Linear
from llmprune.algorithms.feed_forward.subproblems import (
    Coefficients,
    hidden_solver,
    solve_activated,
    solve_rectified,
    solve_up,
)
from llmprune.errors import TargetError
from tests.algorithms.problems import normal
from tests.reference import brute_minimum

GRID = st.sampled_from([0.01, 0.1, 1.0, 5.0, 10.0, 100.0])
COEFFICIENTS = st.builds(Coefficients, GRID, GRID, GRID)
SMOOTH = {"silu": SILU, "gelu": GELU, "gelu_tanh": GELU_TANH, "quick_gelu": QUICK_GELU}
EXAMPLES = settings(deadline=None, max_examples=40)


def draw(seed: int, *, count: int = 4, scale: float = 2.0) -> list[torch.Tensor]:
    return [scale * normal(6, 9, seed=100 * seed + index, dtype=torch.float64) for index in range(count)]


@EXAMPLES
@given(st.integers(0, 999), COEFFICIENTS, st.booleans())
def test_p_minimises_its_objective(seed, coefficients, biased):
    down = Linear(
        normal(4, 9, seed=seed, dtype=torch.float64),
        normal(4, seed=seed + 1, dtype=torch.float64) if biased else None,
    )
    hidden, outputs = draw(seed, count=1)[0], normal(6, 4, seed=seed + 2, dtype=torch.float64)
    p = hidden_solver(down, coefficients)(hidden, outputs).requires_grad_()
    objective = (
        coefficients.beta * (down(p) - outputs).square().sum() + coefficients.gamma * (p - hidden).square().sum()
    )
    (slope,) = torch.autograd.grad(objective, p)
    scale = max(coefficients.beta, coefficients.gamma)
    torch.testing.assert_close(slope / scale, torch.zeros_like(slope), rtol=0, atol=1e-9)


def pull_cost(coefficients, centre, scale, hidden, function):
    """Alpha (x - m)^2 + gamma (f(x) c - p)^2, as a function of x."""
    return lambda x: coefficients.alpha * (x - centre) ** 2 + coefficients.gamma * (function(x) * scale - hidden) ** 2


@EXAMPLES
@given(st.integers(0, 999), COEFFICIENTS)
def test_z_of_a_gated_ffn_is_the_brute_force_minimum(seed, coefficients):
    centre, gate_value, hidden = (tensor[0, 0] for tensor in draw(seed, count=3))
    z = solve_up(centre, gate_value, hidden, coefficients)
    cost = pull_cost(coefficients, centre, gate_value, hidden, lambda x: x)
    assert float(cost(z)) <= brute_minimum(cost, -1e3, 1e3) * (1 + 1e-9) + 1e-12


@EXAMPLES
@given(st.integers(0, 999), COEFFICIENTS, st.booleans())
def test_rectified_is_the_brute_force_minimum(seed, coefficients, scaled):
    centre, scale, hidden = (tensor[:1, :1] for tensor in draw(seed, count=3))
    scale = scale if scaled else None
    x = solve_rectified(centre, scale, hidden, coefficients)
    cost = pull_cost(coefficients, centre, 1 if scale is None else scale, hidden, torch.relu)
    best = brute_minimum(lambda x: cost(x).flatten(), -1e3, 1e3)
    assert float(cost(x)) <= best * (1 + 1e-9) + 1e-12


@EXAMPLES
@given(st.integers(0, 999), COEFFICIENTS, st.sampled_from(sorted(SMOOTH)), st.booleans(), st.integers(0, 6))
def test_newton_never_raises_an_elements_objective(seed, coefficients, name, scaled, steps):
    start, centre, scale, hidden = (tensor.float() for tensor in draw(seed, scale=4.0))
    scale = scale if scaled else None
    x = solve_activated(start, centre, scale, hidden, SMOOTH[name], coefficients, steps=steps)
    cost = pull_cost(coefficients, centre, 1 if scale is None else scale, hidden, SMOOTH[name].value)
    before, after = cost(start), cost(x)
    assert torch.all(after <= before * (1 + 1e-5) + 1e-5)


@pytest.mark.parametrize("name", sorted(SMOOTH))
@pytest.mark.parametrize("scaled", [False, True])
def test_many_newton_steps_reach_a_minimum_nearly_always_the_lowest(name, scaled):
    coefficients = Coefficients(1.0, 1.0, 1.0)
    start, centre, scale, hidden = draw(7)
    scale = scale if scaled else None
    x = solve_activated(start, centre, scale, hidden, SMOOTH[name], coefficients, steps=200)
    cost = pull_cost(coefficients, centre, 1 if scale is None else scale, hidden, SMOOTH[name].value)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(cost(x).sum(), x)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-4)
    lowest = 0
    for index in range(x.numel()):
        c = 1.0 if scale is None else scale.flatten()[index]
        one = pull_cost(coefficients, centre.flatten()[index], c, hidden.flatten()[index], SMOOTH[name].value)
        best = brute_minimum(one, -60, 60)
        found = float(one(x.detach().flatten()[index]))
        assert found >= best - 1e-9
        lowest += found <= best + 1e-4
    assert lowest >= 0.8 * x.numel()


def test_only_ratios_matter():
    start, centre, scale, hidden = draw(3)
    small, large = Coefficients(0.1, 0.1, 0.1), Coefficients(5, 5, 5)
    for coefficients in (small, large):
        assert hidden_solver(Linear(normal(4, 9, seed=0)), coefficients).gain.weight.isfinite().all()
    torch.testing.assert_close(
        solve_activated(start, centre, scale, hidden, SILU, small),
        solve_activated(start, centre, scale, hidden, SILU, large),
    )
    torch.testing.assert_close(solve_up(centre, scale, hidden, small), solve_up(centre, scale, hidden, large))


def test_inputs_are_not_changed():
    tensors = draw(3)
    copies = [tensor.clone() for tensor in tensors]
    start, centre, scale, hidden = tensors
    solve_activated(start, centre, scale, hidden, SILU, Coefficients())
    solve_rectified(centre, scale, hidden, Coefficients())
    solve_up(centre, scale, hidden, Coefficients())
    hidden_solver(Linear(normal(9, 9, seed=0, dtype=torch.float64)), Coefficients())(hidden, centre)
    assert RELU.rectifier
    for tensor, copy in zip(tensors, copies, strict=True):
        assert torch.equal(tensor, copy)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["alpha", "beta", "gamma"])
def test_coefficients_must_be_positive(name, value):
    with pytest.raises(TargetError, match=name):
        Coefficients(**{name: value})
