"""How often speed is measured: in turn, until the ratio is known, or until time is up."""

import itertools
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from llmprune.evaluation.energy import EnergyCounter, EnergyMeter
from llmprune.evaluation.latency import GenerationTime
from llmprune.evaluation.repeats import estimate_paired_ratio
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


@pytest.fixture
def timed(clock, monkeypatch):
    """A timer whose runs take the seconds that a test says; the cold first one takes 5 more, and 1000 bytes more."""

    def make(seconds, meter, *, device="cuda"):
        made, used = [], []

        def time_generation(*args, **kwargs):
            cold = not made
            made.append(seconds + 5 * cold)
            used.append(100 + 1000 * cold)
            clock.now += made[-1]
            return GenerationTime(made[-1] / 2, made[-1])

        monkeypatch.setattr(bench_speed, "time_generation", time_generation)
        monkeypatch.setattr(bench_speed, "random_prompt", lambda model, batch, tokens: None)
        monkeypatch.setattr(bench_speed, "peak_memory", lambda device: nullcontext(lambda: used[-1]))
        model = SimpleNamespace(device=torch.device(device), get_memory_footprint=lambda: 7)
        return _Timer(model, _Load(2, 3, 4), meter), made

    return make


def watts(clock, power, *, least_seconds):
    counter = EnergyCounter("gpu", lambda: int(1000 * power * clock.now), 1e3)
    return EnergyMeter((counter,), "stand-in", least_seconds=least_seconds)


@pytest.mark.parametrize(("seconds", "runs"), [(0.25, 4), (0.3, 4), (2.0, 1)])
def test_a_repeat_lasts_as_long_as_a_slow_energy_counter_needs(clock, timed, seconds, runs):
    timer, made = timed(seconds, watts(clock, 80.0, least_seconds=1.0))
    timer.warm_up()
    assert len(made) == 2  # the cold one, and one that tells how long a run takes
    timer.repeat()
    assert len(made) == 2 + runs
    result = timer.generation()
    assert result.tokens_per_second.values == pytest.approx((2 * 4 / seconds,))
    assert result.joules_per_token.values == pytest.approx((80.0 * seconds / (2 * 4),), rel=1e-3)
    assert result.peak_bytes == 107  # weights and a warm run


def test_on_the_cpu_one_run_warms_up_and_one_makes_a_repeat(clock, timed):
    timer, made = timed(0.25, watts(clock, 80.0, least_seconds=0.0), device="cpu")
    timer.warm_up()
    timer.repeat()
    assert len(made) == 2
    assert timer.generation().joules_per_token.values == pytest.approx((80.0 * 0.25 / 8,))
    assert timer.generation().peak_bytes == 1107


def test_without_a_counter_there_is_no_energy(timed):
    timer, _ = timed(0.25, EnergyMeter((), "none"))
    timer.warm_up()
    timer.repeat()
    assert timer.generation().joules_per_token is None


def test_a_stall_in_one_repeat_is_no_claim(clock):
    """Five repeats, one of which the machine slept through: the ratio stays, and is known not to be known."""
    stalled = Fake("a", [1.0, 1.0, 40.0, 1.0, 1.0], clock, [])
    steady = Fake("b", [1.0, 1.01, 1.0, 0.99, 1.0], clock, [])
    _time_in_turn([stalled, steady], repeats=5, until=0.0)
    ratio = estimate_paired_ratio(stalled.rate(8).values, steady.rate(8).values)
    assert ratio.value == pytest.approx(1.0, abs=0.02)
    assert not ratio.is_clear
