"""Which points of a sweep are worth having: the Pareto sets, and the best under the user's limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmprune.algorithms.pareto import pareto_front
from llmprune.artifacts.records.sweep import Axis, ParetoSets, SweepPoint, SweepResult
from llmprune.errors import GateError, TargetError
from llmprune.stages.common.params import ParamLimit


@dataclass(frozen=True)
class Limits:
    """The limits that the best point must keep; None: no limit.

    Attributes:
        params: weights stored.
        effective_params: weights that are not zero.
        latency_ratio: time of a generated token over the dense model's.
        ppl_ratio: perplexity over the dense model's.

    Raises:
        TargetError: a ratio that nothing can keep.
    """

    params: ParamLimit | None = None
    effective_params: ParamLimit | None = None
    latency_ratio: float | None = None
    ppl_ratio: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("latency", self.latency_ratio), ("ppl", self.ppl_ratio)):
            if value is not None and not 0 < value < math.inf:
                raise TargetError(f"`max_{name}_ratio={value:g}` is out of range; type a number above 0, such as 1.5.")

    def __str__(self) -> str:
        """As typed."""
        params = [("params", self.params and self.params.text)]
        params += [("effective-params", self.effective_params and self.effective_params.text)]
        ratios = [("latency-ratio", self.latency_ratio), ("ppl-ratio", self.ppl_ratio)]
        typed = params + [(name, None if ratio is None else f"{ratio:g}") for name, ratio in ratios]
        return " ".join(f"--max-{name} {text}" for name, text in typed if text is not None)

    def allow(self, point: SweepPoint, dense: SweepPoint) -> bool:
        """Whether a point is within all of them."""
        latency = point.latency_ratio
        return (
            (self.params is None or point.params <= self.params.of(dense.params))
            and (
                self.effective_params is None
                or point.effective_params <= self.effective_params.of(dense.effective_params)
            )
            and (self.latency_ratio is None or (latency is not None and latency.value <= self.latency_ratio))
            and (self.ppl_ratio is None or point.ppl_ratio.value <= self.ppl_ratio)
        )


@dataclass(frozen=True)
class Best:
    """The best point within the limits, in one figure.

    Attributes:
        what: the figure in which it is best.
        point: the point.
    """

    what: str
    point: SweepPoint


def pareto_sets(points: Sequence[SweepPoint]) -> ParetoSets:
    """The Pareto sets: for each figure, the points that no other point beats in it and in perplexity."""
    return ParetoSets(
        params=_front(points, "params"),
        effective_params=_front(points, "effective_params"),
        latency=_front(points, "latency"),
    )


def _front(points: Sequence[SweepPoint], axis: Axis) -> tuple[str, ...]:
    figures = [(along, point.ppl_ratio.value) for point in points if (along := point.along(axis)) is not None]
    measured = [point for point in points if point.along(axis) is not None]
    return tuple(measured[index].name for index in pareto_front(figures))


def choose_best(result: SweepResult, limits: Limits) -> tuple[list[Best], GateError | None]:
    """The best pruned points within the limits. If there is none, the error to raise once everything is shown.

    Without a limit on perplexity it is the one of the lowest; with one, it is the smallest, the one
    of the fewest weights that are not zero, and the fastest. Among equals the one of lower perplexity.
    """
    assert result.dense is not None, "a sweep measures the dense model first"
    allowed = [point for point in result.points if limits.allow(point, result.dense)]
    if not result.points:
        return [], GateError("No point of the sweep could be made: see what is said of those that were left out.")
    if not allowed:
        return [], GateError(f"No point of the sweep is within {limits}; all of them were measured and written.")
    if limits.ppl_ratio is None:
        lowest = min(allowed, key=lambda point: (point.ppl_ratio.value, point.params))
        return [Best("lowest perplexity", lowest)], None
    best = [Best("fewest stored parameters", min(allowed, key=_along("params")))]
    best += [Best("fewest parameters not zero", min(allowed, key=_along("effective_params")))]
    timed = [point for point in allowed if point.latency_ratio is not None]
    return best + ([Best("fastest", min(timed, key=_along("latency")))] if timed else []), None


def _along(axis: Axis) -> Callable[[SweepPoint], tuple[float, float]]:
    return lambda point: (point.along(axis) or 0.0, point.ppl_ratio.value)
