"""Dropping hopeless candidates early, by paired comparison with the leader.

All candidates of a round are measured on the same segments of text, so what is
compared is the difference on each segment: the text's own difficulty cancels, and a
few thousand tokens tell apart what an unpaired comparison could not.

What is decided is which candidate has the smallest loss on *these* calibration windows,
all of which a survivor will see. What is still uncertain is only the part not yet seen,
hence the correction for sampling without replacement from a finite population.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.special import stdtrit
from torch import Tensor

from llmprune.choices import ERROR_RATE


@dataclass(frozen=True)
class EliminationRule:
    """When a candidate is out.

    Attributes:
        error_rate: chance, for one comparison, of dropping a candidate that is in truth
            no worse than the leader on all windows (one-sided paired t-test). Nominal: it takes
            segments as independent, and neighbours in a window are slightly correlated.
        min_segments: no candidate is dropped on fewer segments than this; at least 2, for
            a single difference has no spread.
    """

    error_rate: float = ERROR_RATE
    min_segments: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.error_rate < 0.5:
            raise ValueError(f"error_rate is {self.error_rate}, but must lie between 0 and 0.5")
        if self.min_segments < 2:
            raise ValueError(f"min_segments is {self.min_segments}, but must be 2 or more")

    def hopeless(self, losses: Tensor, *, share_seen: float = 0.0) -> Tensor:
        """Which candidates are worse than the best one beyond doubt.

        Args:
            losses: (candidates, segments) float64, mean loss of each candidate on each
                segment seen so far, in nats/token.
            share_seen: what part these segments are of all that a survivor will see; 0: of
                a population without end.

        Returns:
            (candidates,) bool; never true for the leader.
        """
        candidates, segments = losses.shape
        if segments < self.min_segments:
            return torch.zeros(candidates, dtype=torch.bool)
        leader = losses[losses.mean(dim=1).argmin()]
        excess = losses - leader
        standard_error = excess.std(dim=1) * ((1 - share_seen) / segments) ** 0.5
        quantile = -float(stdtrit(segments - 1, self.error_rate))
        hopeless: Tensor = excess.mean(dim=1) > quantile * standard_error
        return hopeless
