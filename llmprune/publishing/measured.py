"""What benchmarks measured of a checkpoint, as rows of its card: the newest figure of each kind, with its protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llmprune.artifacts.records.bench import BenchResult, Estimate, GenerationResult, Repeats
from llmprune.text.protocols import PROTOCOLS

_SERIES: tuple[tuple[str, str, Callable[[GenerationResult], Repeats]], ...] = (
    ("generated tokens/s", "generation_ratio", lambda one: one.tokens_per_second),
    ("ms to the first token", "first_token_ratio", lambda one: one.first_token_ms),
)


@dataclass(frozen=True)
class Measure:
    """One figure of the pruned model beside the model that it was compared with.

    Attributes:
        kind: ``perplexity``, an accuracy's name as lm-eval gives it, or what a speed is called.
        what: the text, the task, or the load.
        base: of the model compared with; None where there was none.
        pruned: of this model.
        change: pruned over base, or pruned less base, for people.
        protocol: how it was measured, in one line.
        dataset: what the metadata call the text or the task; None: the figure is not for the metadata.
    """

    kind: str
    what: str
    base: Estimate | None
    pruned: Estimate
    change: str
    protocol: str
    dataset: str | None = None


def qualities(results: Sequence[BenchResult]) -> tuple[Measure, ...]:
    """Perplexities and accuracies, the newest of each text and of each task's metric."""
    found: dict[tuple[str, str], Measure] = {}
    for result in _newest_first(results):
        for measure in (*_perplexities(result), *_accuracies(result)):
            found.setdefault((measure.kind, measure.what), measure)
    return tuple(found.values())


def speeds(results: Sequence[BenchResult]) -> tuple[Measure, ...]:
    """Speeds and peak memory of the newest benchmark that measured any."""
    measured = (result for result in _newest_first(results) if result.speed is not None)
    newest = next(measured, None)
    return tuple(_speeds(newest)) if newest is not None else ()


def _newest_first(results: Sequence[BenchResult]) -> list[BenchResult]:
    return sorted(results, key=lambda result: result.created, reverse=True)


def _perplexities(result: BenchResult) -> Iterator[Measure]:
    known = {one.corpus: one.perplexity for one in result.baseline.perplexity} if result.baseline else {}
    for protocol, found in zip(result.perplexity, result.model.perplexity, strict=True):
        base = known.get(found.corpus)
        windows = f"{protocol.windows} windows of {protocol.seq_len} tokens, {'with' if protocol.bos else 'no'} BOS"
        yield Measure(
            "perplexity",
            found.corpus,
            base,
            found.perplexity,
            _ratio(result, f"ppl_ratio.{found.corpus}"),
            f"{protocol.corpus.origin}, {windows}, {result.dtype}",
            _dataset(found.corpus),
        )


def _accuracies(result: BenchResult) -> Iterator[Measure]:
    if result.tasks is None:
        return
    known = {(one.task, one.metric): one for one in result.baseline.tasks} if result.baseline else {}
    changes = {(one.task, one.metric): one for one in result.differences}
    for found in result.model.tasks:
        base, change = known.get((found.task, found.metric)), changes.get((found.task, found.metric))
        yield Measure(
            found.metric,
            found.task,
            Estimate(value=base.accuracy) if base else None,
            Estimate(value=found.accuracy),
            f"{change.difference:+.3f} ± {change.stderr or 0:.3f}" if change else "",
            f"lm-eval {result.tasks.lm_eval}, 0-shot, {len(found.items)} items, {result.dtype}",
            found.task,
        )


def _speeds(result: BenchResult) -> Iterator[Measure]:
    speed, model, base = result.speed, result.model, result.baseline
    assert speed is not None
    where = f"{result.machine}, {result.dtype}"
    load = f"{speed.prompt_tokens} prompt tokens, {speed.new_tokens} new ones, KV cache, {where}"
    known = {one.batch: one for one in base.generation} if base else {}
    for found in model.generation:
        other = known.get(found.batch)
        for kind, metric, read in _SERIES:
            against = _median(read(other)) if other else None
            change = _ratio(result, f"{metric}.{found.batch}")
            yield Measure(kind, f"batch {found.batch}", against, _median(read(found)), change, load)
    if model.prompt is not None:
        prompt = f"one prompt of {speed.prefill_tokens} tokens"
        against = _median(base.prompt) if base and base.prompt else None
        change = _ratio(result, "prompt_ratio")
        yield Measure("prompt tokens/s", prompt, against, _median(model.prompt), change, f"{prompt}, {where}")
    if model.peak_bytes is not None:
        known_peak = Estimate(value=base.peak_bytes / 1e6) if base and base.peak_bytes else None
        peak = Estimate(value=model.peak_bytes / 1e6)
        yield Measure("peak MB", "all loads", known_peak, peak, _ratio(result, "peak_bytes_ratio"), where)


def _median(repeats: Repeats) -> Estimate:
    return Estimate(value=repeats.median, interval=repeats.spread)


def _ratio(result: BenchResult, name: str) -> str:
    """A ratio as the benchmark gives it; nothing where there was nothing to compare with."""
    known = result.metrics.get(name)
    if known is None:
        return ""
    interval = f" ({known.interval[0]:.3f} to {known.interval[1]:.3f})" if known.interval else ""
    return f"x {known.value:.3f}{interval}"


def _dataset(corpus: str) -> str:
    """The Hub's name for a text where it has one, else the text's own."""
    name = corpus.partition(":")[0]
    return PROTOCOLS[name].repo if name in PROTOCOLS else name
