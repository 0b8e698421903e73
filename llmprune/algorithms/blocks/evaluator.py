"""What the block search asks of a model and its calibration windows."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from llmprune.algorithms.blocks.forks import Tail


@dataclass(frozen=True)
class WindowLosses:
    """Losses of several states on some windows.

    Attributes:
        sums: (states, windows) float64, sum of the token losses of a window, in nats.
        tokens: predicted tokens in each window, of all alike.
    """

    sums: Tensor
    tokens: int


# Measures candidates: ``losses_without`` of an evaluator, from its second argument on.
Measure = Callable[[range, Sequence[int], Sequence[int], Container[int], Callable[[int], None]], WindowLosses]


class BlockEvaluator(Protocol):
    """What the search needs of a model and its calibration windows; a range says which windows."""

    @property
    def num_blocks(self) -> int:
        """Blocks of the model."""

    @property
    def num_windows(self) -> int:
        """Calibration windows."""

    def fitting(self, states: int, windows: int) -> int:
        """How many of the next ``windows`` may go through the model together in so many states each.

        One at least, and all at most; no number depends on it.
        """

    def expect(self, blocks: Sequence[int]) -> None:
        """From now on just these blocks are run, in this order, again and again."""

    def entering(self, windows: range) -> Tensor:
        """(windows, seq_len, hidden_size): hidden states entering the first block."""

    def apply_block(self, block: int, states: Tensor, windows: range, *, healed: Sequence[Tail] = ()) -> None:
        """Replace ``states`` (n, windows, seq_len, hidden_size; n may be 0) by the block's outputs on them.

        Those of ``healed`` are replaced by the outputs of the block as it is healed for the one behind it.
        """

    def losses(self, states: Tensor, windows: range) -> WindowLosses:
        """Losses of ``states`` (n, windows, seq_len, hidden_size) leaving the last block."""
