"""Activation functions of feed-forward networks, with the slopes that Newton's method needs."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Activation:
    """An elementwise function f of tensors of any shape.

    `value(x)` is f(x); `value_and_slope(x)` is f(x) and f'(x), which share most of their arithmetic.
    `rectifier` says that f(x) = max(x, 0), where minimisation has a closed form.
    """

    value: Callable[[Tensor], Tensor]
    value_and_slope: Callable[[Tensor], tuple[Tensor, Tensor]]
    rectifier: bool = False


def _relu(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.clamp(min=0), (x > 0).to(x.dtype)


def _scaled_silu(x: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """X sigmoid(scale x): f' = sigmoid + scale f (1 - sigmoid)."""
    gate = torch.sigmoid(x if scale == 1 else x * scale)
    value = x * gate
    return value, torch.addcmul(gate, value, 1 - gate, value=scale)


def _gelu(x: Tensor) -> tuple[Tensor, Tensor]:
    """X Phi(x), Phi the normal distribution: f' = Phi + x phi."""
    cumulative = torch.special.ndtr(x)
    density = torch.exp(x.square() * -0.5) * (1 / math.sqrt(2 * math.pi))
    return x * cumulative, torch.addcmul(cumulative, x, density)


def _gelu_tanh(x: Tensor) -> tuple[Tensor, Tensor]:
    """GELU by tanh: f = x (1 + tanh u) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    square = x.square()
    half = torch.tanh(x * (square * cubic + 1) * scale) * 0.5  # tanh(u) / 2
    cumulative = half + 0.5
    inner_slope = square * (3 * cubic * scale) + scale
    # d tanh(u) / dx is (1 - tanh(u)^2) u', and half of it is 2 (1/4 - half^2) u'.
    return x * cumulative, torch.addcmul(cumulative, x * inner_slope, 0.25 - half.square(), value=2)


RELU = Activation(value=torch.relu, value_and_slope=_relu, rectifier=True)
SILU = Activation(value=torch.nn.functional.silu, value_and_slope=lambda x: _scaled_silu(x, 1.0))
QUICK_GELU = Activation(value=lambda x: x * torch.sigmoid(x * 1.702), value_and_slope=lambda x: _scaled_silu(x, 1.702))
GELU = Activation(value=torch.nn.functional.gelu, value_and_slope=_gelu)
GELU_TANH = Activation(value=lambda x: torch.nn.functional.gelu(x, approximate="tanh"), value_and_slope=_gelu_tanh)
