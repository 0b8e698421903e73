"""``llmprune bench``: perplexity and speed of a pruned model beside its source, under one stated protocol."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from llmprune.artifacts.bench_result import (
    BenchResult,
    ModelResult,
    PerplexityProtocol,
    Repeats,
    SpeedProtocol,
)
from llmprune.artifacts.run import RunDirectory
from llmprune.calibration.corpora import load_corpus
from llmprune.calibration.windows import TokenWindows, consecutive_windows
from llmprune.errors import ModelError, NumericalError, TargetError
from llmprune.evaluation.latency import peak_memory, random_prompt, time_generation, time_prompt
from llmprune.evaluation.machine import describe_machine
from llmprune.evaluation.perplexity import window_losses
from llmprune.models.compute import Compute, dtype_name
from llmprune.models.loading import load_tokenizer, load_whole, stored_dtype
from llmprune.stages.bench_subjects import Subject, choose_subjects
from llmprune.stages.calibration_text import corpus_identity
from llmprune.stages.options import require_at_least, require_positions
from llmprune.stages.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class BenchSettings:
    """What to measure, and how.

    Attributes:
        ppl: text source of the perplexity; None: leave it out.
        seq_len: tokens in a perplexity window; None: 2048, or as many as the models have positions.
        max_windows: at most so many of them; None: all.
        bos: whether windows start with BOS: ``auto`` as the tokenizer does by itself.
        speed: measure speed.
        batch: sequences generated together.
        gen: new tokens for each.
        prompt: prompt tokens of each.
        prefill: tokens of the single long prompt; None: as ``seq_len``.
        repeats: timed repeats.

    Raises:
        TargetError: a number that no model could satisfy, or nothing to measure.
    """

    ppl: str | None = "auto"
    seq_len: int | None = None
    max_windows: int | None = None
    bos: Literal["auto", "always", "never"] = "auto"
    speed: bool = True
    batch: int = 64
    gen: int = 128
    prompt: int = 64
    prefill: int | None = None
    repeats: int = 5

    def __post_init__(self) -> None:
        require_at_least(2, seq_len=self.seq_len)
        require_at_least(1, batch=self.batch, gen=self.gen, prompt=self.prompt, prefill=self.prefill)
        require_at_least(1, repeats=self.repeats, max_windows=self.max_windows)
        if self.ppl is None and not self.speed:
            raise TargetError(
                "With neither perplexity nor speed there is nothing to measure; leave out --no-ppl or --no-speed."
            )

    def lengths(self, positions: int) -> tuple[int, int]:
        """Tokens of a perplexity window and of the long prompt, for a model of so many positions.

        Raises:
            TargetError: what is to be measured is beyond them.
        """
        usual = min(2048, positions)
        seq_len, prefill = self.seq_len or usual, self.prefill or usual
        if self.ppl is not None:
            require_positions(positions, seq_len=seq_len)
        if self.speed:
            require_positions(positions, prefill=prefill)
            if self.prompt + self.gen > positions:
                raise TargetError(
                    f"--prompt {self.prompt} and --gen {self.gen} together are beyond the model's {positions} "
                    "positions; type smaller numbers."
                )
        return seq_len, prefill


QUICK = BenchSettings(seq_len=512, max_windows=8, batch=8, gen=32, prefill=512, repeats=3)


_LARGEST_LOSS = 300.0  # nats/token: far beyond guessing, and its exp is still a number


@dataclass(frozen=True)
class _Loaded:
    """A model in memory, and what is known of it."""

    model: PreTrainedModel
    result: ModelResult


def bench(
    run: RunDirectory,
    *,
    model: str | None,
    baseline: str | None,
    settings: BenchSettings,
    compute: Compute,
    progress: Progress,
    trust_remote_code: bool = False,
) -> tuple[BenchResult, Path]:
    """Measure a model, and its source beside it, and write the result under ``bench/``.

    Args:
        run: where results go, and where the defaults come from.
        model: what to measure; None: the run's newest pruned checkpoint.
        baseline: what to compare it with; None: the run's dense model, if it is another.
        settings: what to measure.
        compute: device and dtype; without a dtype, the one the baseline is stored in, for both.
        progress: who listens.
        trust_remote_code: let the checkpoints' own Python files run.

    Returns:
        The result, and the file it was written to.

    Raises:
        ModelError: nothing to measure, or a model cannot be loaded.
        CheckpointError: a model's weights are not whole, or not what its config says.
        CorpusError: the text cannot be had, or is too short.
        TargetError: an option out of range.
        NumericalError: a model computes NaN or infinity.
    """
    subjects = choose_subjects(
        run, model, baseline, compute=compute, progress=progress, trust_remote_code=trust_remote_code
    )
    seq_len, prefill = settings.lengths(min(subject.positions for subject in subjects))
    dtype = compute.dtype or stored_dtype(subjects[-1].checkpoint)
    windows = _text(subjects, settings, seq_len, progress, trust_remote_code)
    loaded = [_loaded(subject, dtype, compute, progress, trust_remote_code) for subject in subjects]
    if windows is not None:
        loaded = [_with_perplexity(one, windows, compute, progress) for one in loaded]
    if settings.speed:
        loaded = _with_speed(loaded, settings, prefill, compute, progress)
    result = BenchResult(
        machine=describe_machine(compute.device),
        device=str(compute.device),
        dtype=dtype_name(dtype),
        perplexity=_perplexity_protocol(windows) if windows is not None else None,
        speed=_speed_protocol(settings, prefill) if settings.speed else None,
        model=loaded[0].result,
        baseline=loaded[1].result if len(loaded) > 1 else None,
    )
    return result, _save(result, run.bench)


def _text(
    subjects: list[Subject], settings: BenchSettings, seq_len: int, progress: Progress, trust_remote_code: bool
) -> TokenWindows | None:
    """The windows for perplexity, tokenised once: both models must read the same tokens."""
    if settings.ppl is None:
        return None
    corpus = load_corpus(settings.ppl, purpose="evaluation")
    windows = [
        consecutive_windows(
            corpus,
            load_tokenizer(subject.directory, trust_remote_code=trust_remote_code),
            seq_len=seq_len,
            max_windows=settings.max_windows,
            bos=settings.bos,
        )
        for subject in subjects
    ]
    if len({one.fingerprint for one in windows}) > 1:
        raise ModelError(
            f"{subjects[0].name} and {subjects[1].name} cut the text into different tokens, so their perplexities "
            "do not compare; type another --baseline, or --no-ppl."
        )
    if windows[0].note:
        progress.say(windows[0].note)
    return windows[0]


def _loaded(
    subject: Subject, dtype: torch.dtype, compute: Compute, progress: Progress, trust_remote_code: bool
) -> _Loaded:
    progress.say(f"Loading {subject.name} in {dtype_name(dtype)}.")
    whole = load_whole(subject.directory, device=compute.device, dtype=dtype, trust_remote_code=trust_remote_code)
    return _Loaded(whole, subject.described())


def _with_perplexity(one: _Loaded, windows: TokenWindows, compute: Compute, progress: Progress) -> _Loaded:
    with progress.task(f"Perplexity, {one.result.num_blocks} blocks", len(windows.tokens)) as advance:
        losses = window_losses(one.model, windows.tokens, batch_tokens=compute.batch_tokens, on_windows=advance)
    if not losses.mean < _LARGEST_LOSS:
        raise NumericalError(
            f"{one.result.name} has a loss of {losses.mean:.4g} nats/token in {dtype_name(one.model.dtype)}, of which "
            "there is no perplexity; try --dtype float32."
        )
    measured = {
        "window_losses": losses.losses,
        "perplexity": losses.perplexity,
        "perplexity_interval": losses.interval,
    }
    return _Loaded(one.model, one.result.model_copy(update=measured))


def _with_speed(
    loaded: list[_Loaded], settings: BenchSettings, prefill: int, compute: Compute, progress: Progress
) -> list[_Loaded]:
    """Time all models in turn, so that a drift of the machine's speed meets all alike."""
    timers = [_Timer(one.model, settings, prefill) for one in loaded]
    with progress.task("Speed", (settings.repeats + 1) * len(timers)) as advance:
        for timer in timers:
            timer.warm_up(compute.device)
            advance(1)
        for _ in range(settings.repeats):
            for timer in timers:
                timer.repeat()
                advance(1)
    return [
        _Loaded(one.model, one.result.model_copy(update=timer.measured()))
        for one, timer in zip(loaded, timers, strict=True)
    ]


class _Timer:
    """The repeats of one model."""

    def __init__(self, model: PreTrainedModel, settings: BenchSettings, prefill: int) -> None:
        self._model, self._settings = model, settings
        self._prompt = random_prompt(model, batch=settings.batch, tokens=settings.prompt)
        self._long = random_prompt(model, batch=1, tokens=prefill)
        self._generation: list[float] = []
        self._first_token: list[float] = []
        self._prefill: list[float] = []
        self._peak = 0

    def warm_up(self, device: torch.device) -> None:
        """One run that is not timed, and whose memory is measured instead."""
        with peak_memory(device) as peak:
            time_prompt(self._model, self._long)
            time_generation(self._model, self._prompt, new_tokens=self._settings.gen)
            self._peak = peak()

    def repeat(self) -> None:
        generation = time_generation(self._model, self._prompt, new_tokens=self._settings.gen)
        self._generation.append(self._settings.batch * self._settings.gen / generation.total)
        self._first_token.append(1000 * generation.first_token)
        self._prefill.append(self._long.numel() / time_prompt(self._model, self._long))

    def measured(self) -> dict[str, object]:
        return {
            "generation": Repeats(values=tuple(self._generation)),
            "first_token": Repeats(values=tuple(self._first_token)),
            "prompt": Repeats(values=tuple(self._prefill)),
            "peak_bytes": self._model.get_memory_footprint() + self._peak,  # weights as computed, not as stored
        }


def _perplexity_protocol(windows: TokenWindows) -> PerplexityProtocol:
    count, seq_len = windows.tokens.shape
    return PerplexityProtocol(corpus=corpus_identity(windows), seq_len=seq_len, windows=count, bos=windows.bos)


def _save(result: BenchResult, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.json"
    result.write(path)
    return path


def _speed_protocol(settings: BenchSettings, prefill: int) -> SpeedProtocol:
    return SpeedProtocol(
        batch=settings.batch,
        prompt_tokens=settings.prompt,
        new_tokens=settings.gen,
        prefill_tokens=prefill,
        repeats=settings.repeats,
    )
