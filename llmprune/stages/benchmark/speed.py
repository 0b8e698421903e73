"""The speed part of a benchmark: both models in turn, until their ratio is known or time is up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from llmprune.artifacts.records.bench import GenerationResult
from llmprune.artifacts.records.estimates import Repeats
from llmprune.artifacts.records.protocols import SpeedProtocol
from llmprune.evaluation.energy import EnergyMeter
from llmprune.evaluation.intervals import is_within
from llmprune.evaluation.latency import GenerationTime, peak_memory, random_prompt, time_generation
from llmprune.evaluation.repeats import estimate_paired_ratio
from llmprune.stages.benchmark.opened import Loaded
from llmprune.stages.benchmark.settings import BenchSettings
from llmprune.stages.common.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PRECISION = 0.05  # the ratio's interval ends this share of it away, at most


@dataclass(frozen=True)
class Speed:
    """What was measured of one model.

    Attributes:
        generation: one result for each batch size.
        prompt: prompt tokens/s of the single long prompt.
        peak_bytes: weights, and the most memory in use above them.
    """

    generation: tuple[GenerationResult, ...]
    prompt: Repeats
    peak_bytes: int


@dataclass(frozen=True)
class _Load:
    """What is timed: ``new_tokens`` for each of ``batch`` prompts. One new token is the processing of the prompt."""

    batch: int
    prompt_tokens: int
    new_tokens: int


def measure_speed(
    loaded: Sequence[Loaded], settings: BenchSettings, *, prefill: int, meter: EnergyMeter, progress: Progress
) -> list[Speed]:
    """Time every model on every batch size and on a long prompt.

    Each load has an equal share of what is left of ``settings.max_seconds``.
    """
    loads = [_Load(batch, settings.prompt, settings.gen) for batch in settings.batch] + [_Load(1, prefill, 1)]
    timed: list[list[_Timer]] = []
    deadline = time.monotonic() + settings.max_seconds
    with progress.task("Speed", len(loads) * (1 + settings.repeats)) as advance:
        for left, load in zip(range(len(loads), 0, -1), loads, strict=True):
            timers = [_Timer(one.model, load, meter) for one in loaded]
            until = time.monotonic() + (deadline - time.monotonic()) / left
            _time_in_turn(timers, repeats=settings.repeats, until=until, advance=advance)
            timed.append(timers)
    return [_speed(of_model) for of_model in zip(*timed, strict=True)]


def _time_in_turn(
    timers: Sequence[_Timer], *, repeats: int, until: float, advance: Callable[[float], None] = lambda _: None
) -> None:
    """Repeat all timers in turn, so that a drift of the machine's speed affects all models alike.

    Args:
        timers: one for each model.
        repeats: least number of repeats.
        until: monotonic seconds after which no repeat beyond ``repeats`` begins.
        advance: called with 1 after the warm-up and after each of the first ``repeats``.
    """
    for timer in timers:
        timer.warm_up()
    advance(1)
    done = 0
    while done < repeats or (time.monotonic() < until and not _is_known(timers)):
        for timer in timers[:: 1 if done % 2 == 0 else -1]:  # so that no model is always the second
            timer.repeat()
        done += 1
        advance(1 if done <= repeats else 0)


def _is_known(timers: Sequence[_Timer]) -> bool:
    """Whether the ratio of the models' speeds, or the speed of a single model, is known well enough."""
    first, *others = [timer.seconds for timer in timers]
    return is_within(estimate_paired_ratio(first, others[0] if others else [1.0] * len(first)), _PRECISION)


class _Timer:
    """The repeats of one model under one load."""

    def __init__(self, model: PreTrainedModel, load: _Load, meter: EnergyMeter) -> None:
        self.load = load
        self._model, self._meter = model, meter
        self._prompt = random_prompt(model, batch=load.batch, tokens=load.prompt_tokens)
        self._times: list[GenerationTime] = []
        self._joules: list[float] = []
        self._peak = 0
        self._rounds = 1

    def warm_up(self) -> None:
        """One run that is not a repeat: its memory is measured, and its time tells how many runs make a repeat.

        On a GPU there is one more run before it. It starts the libraries, whose time and memory would count otherwise.
        """
        device = torch.device(self._model.device)
        if device.type != "cpu":
            self._generate()
        with peak_memory(device) as peak:
            run = self._generate()
            self._peak = peak()
        self._rounds = max(1, math.ceil(self._meter.least_seconds / run.total))

    def repeat(self) -> None:
        """One timed repeat: the mean of as many runs as the energy meter needs, which is usually one."""
        before = self._meter.read()
        runs = [self._generate() for _ in range(self._rounds)]
        joules = self._meter.joules_since(before)
        self._times.append(
            GenerationTime(
                first_token=sum(run.first_token for run in runs) / len(runs),
                total=sum(run.total for run in runs) / len(runs),
            )
        )
        self._joules += [] if joules is None else [joules / len(runs)]

    def _generate(self) -> GenerationTime:
        return time_generation(self._model, self._prompt, new_tokens=self.load.new_tokens)

    @property
    def seconds(self) -> list[float]:
        """Of every repeat."""
        return [one.total for one in self._times]

    @property
    def peak_bytes(self) -> int:
        return int(self._model.get_memory_footprint()) + self._peak  # weights as computed, not as stored

    def rate(self, tokens: int) -> Repeats:
        """Tokens/s of every repeat, where each went through so many tokens."""
        return Repeats(values=tuple(tokens / seconds for seconds in self.seconds))

    def generation(self) -> GenerationResult:
        tokens = self.load.batch * self.load.new_tokens
        return GenerationResult(
            batch=self.load.batch,
            tokens_per_second=self.rate(tokens),
            first_token_ms=Repeats(values=tuple(1000 * one.first_token for one in self._times)),
            joules_per_token=Repeats(values=tuple(one / tokens for one in self._joules)) if self._joules else None,
            peak_bytes=self.peak_bytes,
        )


def _speed(timers: Sequence[_Timer]) -> Speed:
    """One model's results: all timers but the last generated, the last processed the long prompt."""
    *generating, prompting = timers
    return Speed(
        generation=tuple(timer.generation() for timer in generating),
        prompt=prompting.rate(prompting.load.prompt_tokens),
        peak_bytes=max(timer.peak_bytes for timer in timers),
    )


def speed_protocol(settings: BenchSettings, *, prefill: int, meter: EnergyMeter) -> SpeedProtocol:
    """How speed is measured."""
    return SpeedProtocol(
        batch=settings.batch,
        prompt_tokens=settings.prompt,
        new_tokens=settings.gen,
        prefill_tokens=prefill,
        repeats=settings.repeats,
        max_seconds=settings.max_seconds,
        energy=meter.description,
    )
