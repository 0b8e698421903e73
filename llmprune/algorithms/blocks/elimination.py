"""Dropping hopeless candidates early, by paired comparison with the leader on whole windows.

All candidates of a round are measured on the same windows, so the difference on each window is compared: the text's
own difficulty cancels. Which candidate has the smallest loss on all calibration windows is decided; a survivor sees
all of them. The windows come in random order, so those seen so far are a random sample without replacement of a finite
population, and the only chance is in that order.

The unit is a window, not a token or a segment of tokens. Losses inside a window are correlated: on SmolLM2 (19 windows
of 511 tokens of WikiText-2, 27 pairs of candidates) the variance of a window's mean difference is 1.0 to 3.3 times what
independent segments of 64 tokens would give, 1.9 at the median, and windows have effects of their own that no segments
inside them show. A former rule that took segments as the unit dropped the better of two equal candidates in 5 to 6% of
simulated searches at a nominal 0.1%.
"""

from __future__ import annotations

from dataclasses import dataclass

from scipy.special import stdtrit
from torch import Tensor

from llmprune.choices import ERROR_RATE

_FIRST = 12  # most windows before the first comparison, when the states of all candidates are in memory


@dataclass(frozen=True)
class EliminationRule:
    """When a candidate is out.

    At a few fixed numbers of windows every candidate is compared with the leader by a one-sided paired t-test over the
    windows seen, with the correction for a finite population. Its level is the error rate divided by the number of
    comparisons that the leader and the clock allow: (candidates - 1) rivals times the number of looks (Bonferroni).

    So the chance that a round drops the candidate with the smallest loss on all windows is at most `error_rate`, over
    all looks and all rivals. That holds as far as a t-test holds for the mean difference of a few windows: exactly for
    normal differences and many windows, and in simulations also for heavy tails and correlated tokens
    (docs/elimination.md). Nothing is said about other texts than the calibration windows.

    Attributes:
        error_rate: chance, in a whole round, of dropping the block that exhaustive search would remove.

    Raises:
        ValueError: an error rate that is not between 0 and 0.5.
    """

    error_rate: float = ERROR_RATE

    def __post_init__(self) -> None:
        if not 0 < self.error_rate < 0.5:
            raise ValueError(f"error_rate is {self.error_rate}, but must lie between 0 and 0.5")

    @staticmethod
    def looks(num_windows: int) -> tuple[int, ...]:
        """After how many of ``num_windows`` windows candidates are compared: at most twice, and never after all.

        The windows between two comparisons go through the model together. So a round reads a model that does not fit
        into memory three times, where comparing after 4, 6, 9, 13 ... windows would read it once for each.
        First after 2 sqrt(n) windows, 12 at most, then after the geometric mean of these and all.
        """
        first = min(_FIRST, round(2 * num_windows**0.5))
        looks = {first, round((first * num_windows) ** 0.5)}
        return tuple(sorted(look for look in looks if look < num_windows))

    def hopeless(self, losses: Tensor, *, candidates: int, num_windows: int) -> Tensor:
        """Which candidates are worse than the best one beyond doubt.

        Args:
            losses: (survivors, windows) float64, mean loss of each on each window seen so far, in nats/token;
                at least 2 windows.
            candidates: how many the round began with.
            num_windows: all windows that a survivor will see.

        Returns:
            (survivors,) bool; never true for the leader.
        """
        seen = losses.shape[1]
        leader = losses[losses.mean(dim=1).argmin()]
        excess = losses - leader
        standard_error = excess.std(dim=1) * ((1 - seen / num_windows) / seen) ** 0.5
        comparisons = max(1, candidates - 1) * max(1, len(self.looks(num_windows)))
        quantile = -float(stdtrit(seen - 1, self.error_rate / comparisons))
        hopeless: Tensor = excess.mean(dim=1) > quantile * standard_error
        return hopeless
