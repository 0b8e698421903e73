"""The Pareto front: which of several points with two costs no other point betters."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other point betters, in the order of their first figure.

    A point betters another when it is no larger in either figure and smaller in one. So equal points
    stand or fall together, and along the result the first figure rises while the second falls. One sort
    and one walk, O(n log n).

    Args:
        points: pairs of figures, less of each being better; none is NaN.

    Raises:
        ValueError: a figure is NaN, which is neither better nor worse than anything.
    """
    if any(math.isnan(figure) for point in points for figure in point):
        raise ValueError("a point with NaN has no place on a Pareto front")
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda index: points[index]):
        last = points[front[-1]] if front else None
        if last is None or points[index][1] < last[1] or points[index] == last:
            front.append(index)
    return front
