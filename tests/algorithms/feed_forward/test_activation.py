import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from llmprune.algorithms.feed_forward.activation import GELU, GELU_TANH, QUICK_GELU, RELU, SILU

CASES = pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (RELU, F.relu),
        (SILU, F.silu),
        (GELU, F.gelu),
        (GELU_TANH, lambda x: F.gelu(x, approximate="tanh")),
        (QUICK_GELU, lambda x: x * torch.sigmoid(1.702 * x)),
    ],
    ids=["relu", "silu", "gelu", "gelu_tanh", "quick_gelu"],
)


@CASES
def test_values_and_slopes(activation, expected):
    x = torch.linspace(-12, 12, 1000, dtype=torch.float64, requires_grad=True)
    value = expected(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    found, found_slope = activation.value_and_slope(x.detach())
    torch.testing.assert_close(found, value.detach())
    torch.testing.assert_close(found_slope, slope)
    torch.testing.assert_close(activation.value(x.detach()), value.detach())


@CASES
def test_far_out_values_are_finite_and_new_tensors(activation, expected):
    x = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4])
    copy = x.clone()
    value, slope = activation.value_and_slope(x)
    assert value.isfinite().all()
    assert slope.isfinite().all()
    value.fill_(7)
    slope.fill_(7)
    activation.value(x).fill_(7)
    assert torch.equal(x, copy)


def test_the_slope_of_a_rectifier_at_zero_is_zero():
    value, slope = RELU.value_and_slope(torch.tensor([-1.0, 0.0, 2.0]))
    assert (value.tolist(), slope.tolist()) == ([0, 0, 2], [0, 0, 1])
