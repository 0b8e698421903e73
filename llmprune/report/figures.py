"""Figures of all benchmarks of a run, a row each: a pruned model's beside the dense one's, under one protocol."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from llmprune.artifacts.records.bench import BenchResult, Estimate, ModelResult, Repeats
from llmprune.report.wording import perplexity_protocol, speed_protocol

Kind = Literal["perplexity", "accuracy", "prompt", "generation", "first token", "energy"]
_NORMAL = 1.96  # standard errors on either side of a mean: 95%


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        kind: what sort of figure.
        what: the figure, with its unit.
        protocol: how it was measured. Only figures of one protocol compare.
        model: name of the model that was asked for.
        baseline: name of the model beside it; None: there was none.
        own: the model's; of speeds the interval goes from the smallest to the largest repeat, else it is of 95%.
        other: the baseline's.
        against: the model's over the baseline's, of accuracies less it; from paired measurements.
    """

    kind: Kind
    what: str
    protocol: str
    model: str
    baseline: str | None
    own: Estimate
    other: Estimate | None = None
    against: Estimate | None = None


def newest_rows(results: Iterable[BenchResult]) -> list[Row]:
    """The newest row of every figure, protocol and pair of models, in the order in which they first came.

    Args:
        results: oldest first.
    """
    found: dict[tuple[str, ...], Row] = {}
    for result in results:
        for row in (*_perplexities(result), *_accuracies(result), *_speeds(result)):
            found[row.kind, row.what, row.protocol, row.model, row.baseline or ""] = row
    return list(found.values())


def _row(result: BenchResult, kind: Kind, what: str, protocol: str, figures: Sequence[Estimate], metric: str) -> Row:
    """A row of figures of the model and, if there is one, the baseline."""
    return Row(
        kind,
        what,
        protocol,
        result.model.name,
        result.baseline.name if result.baseline else None,
        figures[0],
        figures[1] if len(figures) > 1 else None,
        result.metrics.get(metric),
    )


def _models(result: BenchResult) -> list[ModelResult]:
    return [result.model, result.baseline] if result.baseline else [result.model]


def _perplexities(result: BenchResult) -> Iterator[Row]:
    for index, protocol in enumerate(result.perplexity):
        name = protocol.corpus.name
        figures = [one.perplexity[index].perplexity for one in _models(result)]
        told = perplexity_protocol(protocol, result.dtype)
        yield _row(result, "perplexity", f"perplexity, {name}", told, figures, f"ppl_ratio.{name}")


def _accuracies(result: BenchResult) -> Iterator[Row]:
    for index, own in enumerate(result.model.tasks):
        assert result.tasks is not None
        items = f"the first {len(own.items)} items" if result.tasks.limit else f"all {len(own.items)} items"
        bos = "each with BOS" if result.tasks.bos else "no BOS"
        told = f"lm-eval {result.tasks.lm_eval}, {items} of {own.task}, no examples, {bos}, {result.dtype}"
        figures = [_accuracy(one.tasks[index].accuracy, one.tasks[index].stderr) for one in _models(result)]
        yield _row(result, "accuracy", f"{own.task}, {own.metric}", told, figures, f"{own.metric}_diff.{own.task}")


def _speeds(result: BenchResult) -> Iterator[Row]:
    if result.speed is None:
        return
    told, models = speed_protocol(result.speed, result), _models(result)
    series: list[tuple[Kind, str, str, list[Repeats | None]]] = [
        ("prompt", "prompt, tokens/s", "prompt_ratio", [one.prompt for one in models])
    ]
    for index, generation in enumerate(result.model.generation):
        size, both = generation.batch, [one.generation[index] for one in models]
        of, ratio = f"batch {size}", f"ratio.{size}"
        series += [
            ("generation", f"generation, tokens/s, {of}", f"generation_{ratio}", [x.tokens_per_second for x in both]),
            ("first token", f"first token, ms, {of}", f"first_token_{ratio}", [x.first_token_ms for x in both]),
            ("energy", f"energy, J/token, {of}", f"joules_{ratio}", [x.joules_per_token for x in both]),
        ]
    for kind, what, metric, values in series:
        figures = [Estimate(value=one.median, interval=one.spread) for one in values if one is not None]
        if len(figures) == len(models):
            yield _row(result, kind, what, told, figures, metric)


def _accuracy(accuracy: float, stderr: float | None) -> Estimate:
    ends = None if stderr is None else (accuracy - _NORMAL * stderr, accuracy + _NORMAL * stderr)
    return Estimate(value=accuracy, interval=ends)
