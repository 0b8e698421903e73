"""Times taken in turn, so that a busy machine or a cold device does not look like a slow computation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles

import torch

from llmprune.models.devices import wait_for

_AGREEMENT = 1.5  # the middle half of the ratios lies within this factor, or no ratio is told


def now(device: torch.device) -> float:
    """Monotonic seconds, once everything queued on ``device`` is done."""
    wait_for(device)
    return time.perf_counter()


def time_in_turn(
    actions: Sequence[Callable[[], object]],
    device: torch.device,
    *,
    least: int = 3,
    most: int = 5,
    enough: float = 2.0,
) -> list[list[float]]:
    """Run every action once untimed, then time all of them in turn, and again in the opposite order, and so on.

    The first run of anything pays for what is only made once: on CUDA the start of cuBLAS, which takes seconds.

    Args:
        actions: each ends before it returns, or has queued its work on ``device``.
        device: where they compute.
        least: repeats of each, however long they take.
        most: repeats of each.
        enough: seconds after which no repeat beyond ``least`` begins.

    Returns:
        Seconds of every repeat, for each action; repeats of one position were taken beside each other.
    """
    for action in actions:
        action()
    seconds: list[list[float]] = [[] for _ in actions]
    began = now(device)
    for done in range(most):
        if done >= least and now(device) - began > enough:
            break
        for taken, action in list(zip(seconds, actions, strict=True))[:: 1 if done % 2 == 0 else -1]:
            started = now(device)
            action()
            taken.append(now(device) - started)
    return seconds


@dataclass(frozen=True)
class Speedup:
    """How many times as fast one computation is as another.

    Attributes:
        low: the lower end of the middle half of the ratios.
        high: its upper end.
    """

    low: float
    high: float

    def __str__(self) -> str:
        """``1.4``, or ``1.3 to 1.5``."""
        low, high = (f"{end:.2g}" if end < 10 else f"{end:.0f}" for end in (self.low, self.high))
        return low if low == high else f"{low} to {high}"


def speedup(reference: Sequence[float], seconds: Sequence[float]) -> Speedup | None:
    """What times that were taken in turn allow to say of a speed-up; None: nothing.

    A speed-up is told only where all pairs agree which one is faster, and the middle half of their ratios lies within
    a factor of 1.5. So a stall in one of them is never told as a speed-up.

    Args:
        reference: seconds of the computation that is compared with, at least three.
        seconds: as many of the other one, each taken beside its reference.
    """
    ratios = [one / other for one, other in zip(reference, seconds, strict=True)]
    low, _, high = quantiles(ratios, n=4, method="inclusive")
    if not (min(ratios) > 1 or max(ratios) < 1) or high > _AGREEMENT * low:
        return None
    return Speedup(low, high)
