"""Times taken in turn, and what they allow to say."""

import pytest
import torch

from llmprune.models.timing import Speedup, speedup, time_in_turn

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass as tests say."""

    class Clock:
        now = 0.0

    monkeypatch.setattr("llmprune.models.timing.now", lambda device: Clock.now)
    return Clock


def test_every_action_runs_once_before_any_is_timed_and_they_change_places(clock):
    turns = []

    def action(name, seconds):
        def run():
            turns.append(name)
            clock.now += 10 if turns.count(name) == 1 else seconds

        return run

    times = time_in_turn([action("a", 1.0), action("b", 2.0)], CPU, most=3, enough=99)
    assert turns == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert times == [[1.0] * 3, [2.0] * 3]


@pytest.mark.parametrize(("seconds", "repeats"), [(0.1, 5), (0.5, 5), (0.7, 4), (30.0, 3)])
def test_long_repeats_end_as_soon_as_there_are_enough(clock, seconds, repeats):
    def run():
        clock.now += seconds

    (times,) = time_in_turn([run], CPU, least=3, most=5, enough=2.2)
    assert len(times) == repeats


def test_the_clock_really_passes():
    (times,) = time_in_turn([lambda: torch.ones(64, 64) @ torch.ones(64, 64)], CPU)
    assert 3 <= len(times) <= 5
    assert min(times) > 0


def test_a_gpu_is_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    gpu = torch.device("cuda:1")
    time_in_turn([lambda: None], gpu, least=1, most=1)
    assert waited
    assert set(waited) == {gpu}


@pytest.mark.parametrize(
    ("reference", "seconds", "found"),
    [
        ([2.0, 2.0, 2.0], [1.0, 1.0, 1.0], (2.0, 2.0)),
        ([1.0, 1.0, 1.0], [2.0, 2.5, 8.0], None),  # from 0.26 to 0.45
        ([1.0, 1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.5, 2.5, 4.0], (0.4, 0.5)),
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], None),  # neither is faster
        ([1.1, 1.1, 0.9], [1.0, 1.0, 1.0], None),  # they disagree
        ([1.4, 87.0, 1.4], [1.0, 1.0, 1.0], None),  # one stalled
        ([1.4, 1.4, 87.0, 1.4, 1.4], [1.0, 1.0, 1.0, 1.0, 1.0], (1.4, 1.4)),
    ],
)
def test_a_speed_up_is_told_where_the_pairs_agree(reference, seconds, found):
    assert speedup(reference, seconds) == (Speedup(*map(pytest.approx, found)) if found else None)


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((1.31, 1.49), "1.3 to 1.5"),
        ((1.41, 1.42), "1.4"),
        ((9.7, 140.2), "9.7 to 140"),
        ((0.004, 0.005), "0.004 to 0.005"),
    ],
)
def test_a_speed_up_is_spelled_with_its_bounds(ends, text):
    assert str(Speedup(*ends)) == text
