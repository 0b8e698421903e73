"""One-shot block scores against their definitions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llmprune.algorithms.blocks.scores import (
    angular_distances,
    closest_run,
    cosine_similarity_sum,
    least_influential,
)
from llmprune.errors import TargetError


def angle(a: Tensor, b: Tensor) -> float:
    cosine = float(a @ b / (a.norm() * b.norm()))
    return math.acos(max(-1.0, min(1.0, cosine))) / math.pi


def test_cosine_similarities_are_summed_over_tokens():
    before, after = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    expected = sum(math.cos(math.pi * angle(b, a)) for b, a in zip(before.view(-1, 8), after.view(-1, 8), strict=True))
    assert cosine_similarity_sum(before, after) == pytest.approx(expected, abs=1e-5)
    assert cosine_similarity_sum(before, before) == pytest.approx(15, abs=1e-5)
    assert cosine_similarity_sum(before.bfloat16(), -3 * before.bfloat16()) == pytest.approx(-15, abs=0.05)


def test_angular_distances_are_mean_angles_between_any_two_places():
    states = torch.randn(5, 4, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = angular_distances(states)
    for a in range(5):
        for b in range(5):
            expected = sum(angle(states[a, w], states[b, w]) for w in range(4)) / 4
            assert float(found[a, b]) == pytest.approx(expected, abs=1e-7)


def test_known_angles():
    states = torch.tensor([[[1.0, 0]], [[0, 2.0]], [[-3.0, 0]], [[1.0, 1.0]]])
    expected = [[0, 0.5, 1, 0.25], [0.5, 0, 0.5, 0.25], [1, 0.5, 0, 0.75], [0.25, 0.25, 0.75, 0]]
    torch.testing.assert_close(angular_distances(states), torch.tensor(expected).double(), atol=1e-7, rtol=0)


scores = st.lists(st.floats(0, 2), min_size=3, max_size=20)


@given(scores, st.data())
def test_the_least_influential_blocks_are_named_smallest_first(influence, data):
    protected = data.draw(st.frozensets(st.integers(0, len(influence) - 1), max_size=2))
    count = data.draw(st.integers(0, len(influence) - len(protected)))
    named = least_influential(influence, count=count, protected=protected)
    others = set(range(len(influence))) - protected - set(named)
    assert len(set(named)) == count
    assert protected.isdisjoint(named)
    assert [influence[block] for block in named] == sorted(influence[block] for block in named)
    assert all(influence[block] <= influence[other] for block in named for other in others)


@given(st.integers(2, 10), st.integers(0, 10**6), st.data())
def test_the_closest_run_is_the_best_of_all_runs(depth, seed, data):
    distances = torch.rand(depth + 1, depth + 1, generator=torch.Generator().manual_seed(seed)).tolist()
    count = data.draw(st.integers(1, depth))
    protected = data.draw(st.frozensets(st.integers(0, depth - 1), max_size=2))
    allowed = {
        start: distances[start][start + count]
        for start in range(depth - count + 1)
        if not any(block in protected for block in range(start, start + count))
    }
    if allowed:
        start = min(allowed, key=allowed.get)
        assert closest_run(distances, count=count, protected=protected) == list(range(start, start + count))
    else:
        with pytest.raises(TargetError, match=f"No {count} consecutive blocks"):
            closest_run(distances, count=count, protected=protected)


def not_beside(gone, block):
    """A rule as some models have it: no two neighbours may go."""
    return not any(abs(block - other) == 1 for other in gone)


def test_a_block_that_may_not_go_after_the_others_is_not_named():
    influence = [0.5, 0.1, 0.2, 0.3, 0.4]
    named = least_influential(influence, count=2, protected=frozenset({0}), may_go=not_beside)
    assert named == [1, 3]
    with pytest.raises(TargetError, match="When blocks 1, 3 are gone no other can be removed"):
        least_influential(influence, count=3, protected=frozenset({0}), may_go=not_beside)


def test_a_run_that_may_not_go_is_not_taken():
    distances = [[abs(a - b) / 10 for b in range(6)] for a in range(6)]
    distances[1][3] = 0.01
    assert closest_run(distances, count=2, protected=frozenset()) == [1, 2]
    assert closest_run(distances, count=2, protected=frozenset(), may_go=lambda gone, block: 1 not in gone) != [1, 2]
    with pytest.raises(TargetError, match="No 2 consecutive blocks can be removed"):
        closest_run(distances, count=2, protected=frozenset(), may_go=not_beside)


def test_the_last_block_of_a_run_is_asked_for_when_the_others_are_gone():
    asked = []
    distances = [[1.0] * 6 for _ in range(6)]
    closest_run(
        distances, count=3, protected=frozenset({0}), may_go=lambda gone, block: asked.append((gone, block)) or True
    )
    assert asked == [([1, 2], 3), ([2, 3], 4)]


def test_rounding_makes_no_cosine_larger_than_one():
    states = torch.randn(1, 200, 33, generator=torch.Generator().manual_seed(0))
    found = angular_distances(torch.cat([states, states, -states]))
    expected = torch.tensor([[0.0, 0, 1], [0, 0, 1], [1, 1, 0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)
