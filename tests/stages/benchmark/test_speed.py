"""How often speed is measured: in turn, until the ratio is known, or until time is up."""

import itertools

import pytest

from llmprune.evaluation.energy import EnergyMeter
from llmprune.evaluation.latency import GenerationTime
from llmprune.stages.benchmark import speed as bench_speed
from llmprune.stages.benchmark.speed import _Load, _time_in_turn, _Timer


class Clock:
    """Monotonic seconds that pass as tests say."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


class Fake(_Timer):
    """A model whose repeats take the seconds that were given, and that notes when it was its turn."""

    def __init__(self, name, seconds, clock, turns):
        self.name, self.clock, self.turns = name, clock, turns
        self.upcoming = itertools.cycle(seconds)
        self.load = _Load(2, 3, 4)
        self._times, self._joules, self._meter = [], [], EnergyMeter((), "none")

    def warm_up(self):
        self.turns.append(f"{self.name} warms up")

    def repeat(self):
        taken = next(self.upcoming)
        self.clock.now += taken
        self.turns.append(self.name)
        self._times.append(GenerationTime(taken / 4, taken))


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(bench_speed, "time", clock)
    return clock


def test_models_take_turns_after_a_warm_up_and_change_places(clock):
    turns = []
    timers = [Fake("a", [1.0], clock, turns), Fake("b", [2.0], clock, turns)]
    _time_in_turn(timers, repeats=3, until=0.0)
    assert turns == ["a warms up", "b warms up", "a", "b", "b", "a", "a", "b"]


def test_repeats_end_as_soon_as_the_ratio_is_known(clock):
    timers = [Fake("a", [1.0, 1.3, 0.8], clock, []), Fake("b", [2.0, 2.6, 1.6], clock, [])]
    _time_in_turn(timers, repeats=2, until=1e9)  # the machine drifts, and their ratio does not
    assert [len(timer.seconds) for timer in timers] == [2, 2]


def test_repeats_go_on_while_the_ratio_is_not_known_until_time_is_up(clock):
    timers = [Fake("a", [1.0, 3.0], clock, []), Fake("b", [2.0], clock, [])]
    _time_in_turn(timers, repeats=2, until=100.0)
    assert 100.0 <= clock.now < 105.0
    noisy = [Fake("a", [1.0, 1.1, 0.9, 1.0, 1.05], clock, []), Fake("b", [2.0], clock, [])]
    _time_in_turn(noisy, repeats=2, until=1e9)
    assert 2 < len(noisy[0].seconds) < 20


def test_a_single_model_is_repeated_until_its_speed_is_known(clock):
    (timer,) = timers = [Fake("a", [1.0, 1.2, 1.1], clock, [])]
    _time_in_turn(timers, repeats=2, until=1e9)
    assert len(timer.seconds) > 2


def test_what_is_asked_for_is_made_however_long_it_takes(clock):
    timers = [Fake("a", [50.0], clock, []), Fake("b", [1.0], clock, [])]
    _time_in_turn(timers, repeats=4, until=0.0)
    assert len(timers[0].seconds) == 4


def test_rates_are_of_all_sequences(clock):
    timer = Fake("a", [2.0], clock, [])
    timer.repeat()
    assert timer.rate(2 * 4).values == (4.0,)
