"""Streaming moments of a layer's inputs and of what its output lacks: all that a correction is solved from.

A layer y = W a + b adds to a residual stream that is to be H and is h. What is lacking, R = H - h, is what a change of
the layer is to give: min_D ||R - D A||^2 + lambda ||D||^2 for the new weight W + D. That is the ridge regression
min_W ||h_rest + W A - H||^2 + lambda ||W - W_0||^2 written for the change, for h = h_rest + W_0 A. It loses fewer
digits, since R is small where H and h are large, and the block needs no run without the layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from llmprune.algorithms.processes import ALONE, Processes
from llmprune.algorithms.weights.gram import CrossAccumulator, GramAccumulator


@dataclass(frozen=True)
class Moments:
    """Sums over tokens, not averaged, in float32, or in float64 where the chunks were.

    With a bias to correct, the inputs have one more row, which is all ones.

    Attributes:
        gram: (in, in) = A A^T, or (in + 1, in + 1).
        cross: (out, in) = R A^T, or (out, in + 1).
        energy: ||R||^2.
        bias: whether the last input is the ones of a bias.
    """

    gram: Tensor
    cross: Tensor
    energy: float
    bias: bool


class MomentsAccumulator:
    """Adds up moments chunk by chunk.

    Args:
        bias: whether the layer has a bias to correct beside its weight.
    """

    def __init__(self, *, bias: bool) -> None:
        self._bias = bias
        self._gram, self._cross = GramAccumulator(), CrossAccumulator()
        self._energy = 0.0

    def update(self, inputs: Tensor, lacking: Tensor, *, weights: Tensor | None = None) -> Self:
        """Add `inputs` A (tokens, in) and `lacking` R (tokens, out), of any float dtype. Neither is changed.

        `weights` (tokens,) multiply both, and the ones of a bias: a token counts by the square of its weight.
        """
        wide = torch.promote_types(inputs.dtype, torch.float32)
        inputs, lacking = inputs.to(wide), lacking.to(wide)
        if self._bias:
            inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
        if weights is not None:
            inputs, lacking = inputs * weights.to(wide)[:, None], lacking * weights.to(wide)[:, None]
        self._gram.update(inputs)
        self._cross.update(lacking, inputs)
        self._energy += float(lacking.square().sum(dtype=torch.float64))
        return self

    def result(self) -> Moments:
        """The moments of all chunks so far. Later updates do not change them.

        Raises:
            ValueError: no chunk has been added.
        """
        return Moments(self._gram.result(), self._cross.result(), self._energy, self._bias)

    def take(self, processes: Processes = ALONE) -> Moments:
        """`result` without a copy: the sums are given away, and begin anew.

        Args:
            processes: each of which has some of the tokens.

        Raises:
            ValueError: no chunk has been added.
        """
        energy = processes.sum(torch.tensor([self._energy], dtype=torch.float64))
        self._energy = 0.0
        return Moments(self._gram.take(processes), self._cross.take(processes), float(energy), self._bias)
