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
from llmprune.artifacts.checkpoint import open_checkpoint
from llmprune.artifacts.provenance import CorpusIdentity
from llmprune.artifacts.run import RunDirectory
from llmprune.calibration.corpora import load_corpus
from llmprune.calibration.windows import TokenWindows, consecutive_windows
from llmprune.errors import ModelError, TargetError
from llmprune.evaluation.latency import peak_memory, random_prompt, time_generation, time_prompt
from llmprune.evaluation.machine import describe_machine
from llmprune.evaluation.perplexity import window_losses
from llmprune.models.anatomy import block_count
from llmprune.models.compute import Compute, dtype_name
from llmprune.models.loading import load_config, load_tokenizer, load_whole, stored_dtype
from llmprune.models.source import find_model
from llmprune.stages.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class BenchSettings:
    """What to measure, and how.

    Attributes:
        ppl: text source of the perplexity; None: leave it out.
        seq_len: tokens in a perplexity window.
        max_windows: at most so many of them; None: all.
        bos: whether windows start with BOS: ``auto`` as the tokenizer does by itself.
        speed: measure speed.
        batch: sequences generated together.
        gen: new tokens for each.
        prompt: prompt tokens of each.
        prefill: tokens of the single long prompt.
        repeats: timed repeats.
    """

    ppl: str | None = "auto"
    seq_len: int = 2048
    max_windows: int | None = None
    bos: Literal["auto", "always", "never"] = "auto"
    speed: bool = True
    batch: int = 64
    gen: int = 128
    prompt: int = 64
    prefill: int = 2048
    repeats: int = 5


QUICK = BenchSettings(seq_len=512, max_windows=8, batch=8, gen=32, prefill=512, repeats=3)


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
        CorpusError: the text cannot be had, or is too short.
        TargetError: an option out of range.
    """
    _check(settings)
    directories = _choose(run, model, baseline)
    dtype = compute.dtype or stored_dtype(open_checkpoint(directories[-1][1]))
    windows = _text(directories, settings, progress, trust_remote_code)
    loaded = []
    for name, directory in directories:
        progress.say(f"Loading {name} in {dtype_name(dtype)}.")
        whole = load_whole(directory, device=compute.device, dtype=dtype, trust_remote_code=trust_remote_code)
        loaded.append(_Loaded(whole, _described(name, directory)))
    if windows is not None:
        loaded = [_with_perplexity(one, windows, compute, progress) for one in loaded]
    if settings.speed:
        loaded = _with_speed(loaded, settings, compute, progress)
    result = BenchResult(
        machine=describe_machine(compute.device),
        device=str(compute.device),
        dtype=dtype_name(dtype),
        perplexity=_perplexity_protocol(windows) if windows is not None else None,
        speed=_speed_protocol(settings) if settings.speed else None,
        model=loaded[0].result,
        baseline=loaded[1].result if len(loaded) > 1 else None,
    )
    run.bench.mkdir(parents=True, exist_ok=True)
    path = run.bench / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    result.write(path)
    return result, path


def _check(settings: BenchSettings) -> None:
    counts = {
        "--batch": settings.batch,
        "--gen": settings.gen,
        "--prompt": settings.prompt,
        "--prefill": settings.prefill,
        "--repeats": settings.repeats,
        "--max-windows": 1 if settings.max_windows is None else settings.max_windows,
    }
    for option, value in counts.items():
        if value < 1:
            raise TargetError(f"{option} {value} is out of range; type 1 or more.")
    if settings.ppl is None and not settings.speed:
        raise TargetError(
            "With neither perplexity nor speed there is nothing to measure; leave out --no-ppl or --no-speed."
        )


def _choose(run: RunDirectory, model: str | None, baseline: str | None) -> list[tuple[str, Path]]:
    """The model and, behind it, the baseline if there is one: names and directories."""
    known = run.record()
    newest = run.newest_checkpoint()
    chosen = model or (str(newest) if newest else None) or (known.model if known else None)
    if chosen is None:
        raise ModelError(
            f"No MODEL was typed and {run.path} holds no pruned checkpoint; type a model, or: llmprune remove-blocks"
        )
    pairs = [(chosen, _directory(run, chosen))]
    other = baseline or (known.model if known else None)
    if other is not None and (directory := _directory(run, other)) != pairs[0][1]:
        pairs.append((other, directory))
    return pairs


def _directory(run: RunDirectory, name: str) -> Path:
    known = run.record()
    if known is not None and name == known.model:
        return Path(known.directory)
    source = find_model(name)
    if source.is_gguf:
        raise ModelError(f"{name} is a GGUF file; convert it first: llmprune calibrate {name} --run OTHER")
    return source.path.absolute()


def _text(
    directories: list[tuple[str, Path]], settings: BenchSettings, progress: Progress, trust_remote_code: bool
) -> TokenWindows | None:
    """The windows for perplexity, tokenised once: both models must read the same tokens."""
    if settings.ppl is None:
        return None
    corpus = load_corpus(settings.ppl, purpose="evaluation")
    windows = [
        consecutive_windows(
            corpus,
            load_tokenizer(directory, trust_remote_code=trust_remote_code),
            seq_len=settings.seq_len,
            max_windows=settings.max_windows,
            bos=settings.bos,
        )
        for _, directory in directories
    ]
    if len({one.fingerprint for one in windows}) > 1:
        raise ModelError(
            f"{directories[0][0]} and {directories[1][0]} cut the text into different tokens, so their perplexities "
            "do not compare; type another --baseline, or --no-ppl."
        )
    if windows[0].note:
        progress.say(windows[0].note)
    return windows[0]


def _described(name: str, directory: Path) -> ModelResult:
    checkpoint = open_checkpoint(directory)
    return ModelResult(
        name=name,
        num_blocks=block_count(load_config(directory)),
        num_parameters=checkpoint.num_parameters,
        weight_bytes=checkpoint.nbytes,
    )


def _with_perplexity(one: _Loaded, windows: TokenWindows, compute: Compute, progress: Progress) -> _Loaded:
    with progress.task(f"Perplexity, {one.result.num_blocks} blocks", len(windows.tokens)) as advance:
        losses = window_losses(one.model, windows.tokens, batch_tokens=compute.batch_tokens, on_windows=advance)
    measured = {
        "window_losses": losses.losses,
        "perplexity": losses.perplexity,
        "perplexity_interval": losses.interval,
    }
    return _Loaded(one.model, one.result.model_copy(update=measured))


def _with_speed(loaded: list[_Loaded], settings: BenchSettings, compute: Compute, progress: Progress) -> list[_Loaded]:
    """Time all models in turn, so that a drift of the machine's speed meets all alike."""
    timers = [_Timer(one.model, settings) for one in loaded]
    with progress.task("Speed", (settings.repeats + 1) * len(timers)) as advance:
        for timer in timers:
            timer.warm_up(compute.device)
            advance(1)
        for _ in range(settings.repeats):
            for timer in timers:
                timer.repeat()
                advance(1)
    return [
        _Loaded(one.model, one.result.model_copy(update=timer.measured(one.result.weight_bytes)))
        for one, timer in zip(loaded, timers, strict=True)
    ]


class _Timer:
    """The repeats of one model."""

    def __init__(self, model: PreTrainedModel, settings: BenchSettings) -> None:
        self._model, self._settings = model, settings
        self._prompt = random_prompt(model, batch=settings.batch, tokens=settings.prompt)
        self._long = random_prompt(model, batch=1, tokens=settings.prefill)
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
        self._prefill.append(self._settings.prefill / time_prompt(self._model, self._long))

    def measured(self, weight_bytes: int) -> dict[str, object]:
        return {
            "generation": Repeats(values=tuple(self._generation)),
            "first_token": Repeats(values=tuple(self._first_token)),
            "prompt": Repeats(values=tuple(self._prefill)),
            "peak_bytes": weight_bytes + self._peak,
        }


def _perplexity_protocol(windows: TokenWindows) -> PerplexityProtocol:
    corpus = CorpusIdentity(
        name=windows.corpus_name,
        origin=windows.corpus_origin,
        fingerprint=windows.corpus_fingerprint,
        note=windows.note,
    )
    count, seq_len = windows.tokens.shape
    return PerplexityProtocol(corpus=corpus, seq_len=seq_len, windows=count, bos=windows.bos)


def _speed_protocol(settings: BenchSettings) -> SpeedProtocol:
    return SpeedProtocol(
        batch=settings.batch,
        prompt_tokens=settings.prompt,
        new_tokens=settings.gen,
        prefill_tokens=settings.prefill,
        repeats=settings.repeats,
    )
