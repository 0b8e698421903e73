"""The front is what the slow definition says, whatever the points."""

import itertools
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmprune.algorithms.pareto import pareto_front

COARSE = st.integers(-3, 3).map(float)  # many ties
FIGURE = st.one_of(COARSE, st.floats(allow_nan=False))
POINTS = st.lists(st.tuples(FIGURE, FIGURE), max_size=40)


def betters(one, other):
    return one[0] <= other[0] and one[1] <= other[1] and (one[0] < other[0] or one[1] < other[1])


@given(POINTS)
@example([(0.0, 1.0), (-0.0, 1.0), (1.0, 1.0), (1.0, 0.0)])
@example([(1.0, math.inf), (math.inf, 1.0), (math.inf, math.inf)])
def test_the_front_is_all_that_nothing_betters(points):
    slow = [index for index, one in enumerate(points) if not any(betters(other, one) for other in points)]
    front = pareto_front(points)
    assert sorted(front) == slow
    assert len(front) == len(set(front))


@given(POINTS)
def test_along_the_front_one_figure_rises_and_the_other_falls(points):
    front = [points[index] for index in pareto_front(points)]
    for one, following in itertools.pairwise(front):
        assert one == following or (one[0] < following[0] and one[1] > following[1])


@given(st.lists(st.tuples(FIGURE, FIGURE), min_size=1, max_size=20))
def test_every_point_off_the_front_is_bettered_by_one_on_it(points):
    front = pareto_front(points)
    for index, point in enumerate(points):
        assert index in front or any(betters(points[one], point) for one in front)


def test_no_points_have_no_front():
    assert pareto_front([]) == []


@pytest.mark.parametrize("point", [(math.nan, 1.0), (1.0, math.nan)])
def test_nan_is_refused(point):
    with pytest.raises(ValueError, match="NaN"):
        pareto_front([(0.0, 0.0), point])
