"""The figures of a benchmark by name: what ``--fail-if`` takes, and what scripts read without walking the result.

A figure of one text, task or batch size is called FIGURE.WHICH; FIGURE alone is the worst of them. With a
baseline, FIGURE_ratio is the model's over the baseline's, and FIGURE_diff (accuracies) the model's less the
baseline's; both with an interval from paired measurements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from llmprune.artifacts.records.bench import Estimate, GenerationResult, ModelResult, Repeats, TaskResult
from llmprune.evaluation.intervals import estimate_loss_ratio, estimate_mean, estimate_ratio

MEANINGS: Mapping[str, str] = {
    "sparsity": "share of the stored weights that are zero",
    "blocks": "transformer blocks",
    "params": "weights stored, tied ones once",
    "effective_params": "those that are not zero",
    "bytes": "of the weights on disk",
    "load_seconds": "from files to a model in memory",
    "peak_bytes": "weights, and the most memory in use above them",
    "prompt": "prompt tokens/s of the single long prompt, median of the repeats",
    "ppl": "perplexity on a text",
    "acc": "accuracy on a task, and by any other name (`acc_norm`) that lm-eval gives a metric",
    "generation": "generated tokens/s at a batch size, median of the repeats",
    "first_token": "ms until every sequence of the batch has its first new token, median of the repeats",
    "joules": "joules a generated token at a batch size, where the platform counts energy",
}
"""What every figure is, for docs/bench-schema.md."""

_COUNTS: Mapping[str, Callable[[ModelResult], float | None]] = {
    "blocks": lambda one: one.num_blocks,
    "params": lambda one: one.num_parameters,
    "effective_params": lambda one: one.num_parameters - (one.sparsity.zeros if one.sparsity else 0),
    "bytes": lambda one: one.weight_bytes,
    "load_seconds": lambda one: one.load_seconds,
    "peak_bytes": lambda one: one.peak_bytes,
}
_SERIES: Mapping[str, Callable[[GenerationResult], Repeats | None]] = {
    "generation": lambda one: one.tokens_per_second,
    "first_token": lambda one: one.first_token_ms,
    "joules": lambda one: one.joules_per_token,
}
_LOWER_IS_BETTER = ("ppl", "first_token", "joules")


@dataclass(frozen=True)
class _Figure:
    """One figure, and the same against the baseline.

    Attributes:
        name: of the figure.
        which: text, task or batch size; None where there is but one.
        own: of the model.
        against: compared with the baseline's; None without one.
        kind: of the comparison, ``ratio`` or ``diff``.
    """

    name: str
    which: str | None
    own: Estimate
    against: Estimate | None
    kind: str = "ratio"


def collect_metrics(model: ModelResult, baseline: ModelResult | None) -> dict[str, Estimate]:
    """All figures of ``model``, and against ``baseline``, by name."""
    metrics = {"sparsity": Estimate(value=model.sparsity.ratio if model.sparsity else 0.0)}
    for part in (_counts, _perplexities, _accuracies, _speeds):
        for figure in part(model, baseline):
            _enter(metrics, figure, figure.name, figure.own)
            if figure.against is not None:
                _enter(metrics, figure, f"{figure.name}_{figure.kind}", figure.against)
    return metrics


def metric_names(
    *,
    texts: Sequence[str],
    tasks: Sequence[tuple[str, str]],
    batch: Sequence[int],
    energy: bool,
    compared: bool,
) -> list[str]:
    """What ``collect_metrics`` will name, known before anything is measured.

    Args:
        texts: their names.
        tasks: pairs of task and metric.
        batch: sizes that speed is measured with; none: it is not.
        energy: whether the platform counts energy.
        compared: whether there is a baseline.
    """
    figures = ["blocks", "params", "effective_params", "bytes", "load_seconds"]
    figures += ["peak_bytes", "prompt"] if batch else []
    several = [("ppl", text) for text in texts] + [(metric, task) for task, metric in tasks]
    several += [(name, str(size)) for name in _SERIES if energy or name != "joules" for size in batch]
    names = ["sparsity", *(f"{figure}{suffix}" for figure in figures for suffix in ["", "_ratio"][: 1 + compared])]
    metrics = {metric for _, metric in tasks}
    for name, which in several:
        for suffix in ["", "_diff" if name in metrics else "_ratio"][: 1 + compared]:
            names += [f"{name}{suffix}", f"{name}{suffix}.{which}"]
    return list(dict.fromkeys(names))


def _enter(metrics: dict[str, Estimate], figure: _Figure, name: str, estimate: Estimate) -> None:
    """Enter an estimate under its full name, and under the short one if it is the worst so far."""
    if figure.which is not None:
        metrics[f"{name}.{figure.which}"] = estimate
    worst = metrics.setdefault(name, estimate)
    if (estimate.value > worst.value) == (figure.name in _LOWER_IS_BETTER):
        metrics[name] = estimate


def _counts(model: ModelResult, baseline: ModelResult | None) -> Iterator[_Figure]:
    for name, read in _COUNTS.items():
        value, other = read(model), read(baseline) if baseline else None
        if value is not None:
            ratio = Estimate(value=value / other) if other is not None else None
            yield _Figure(name, None, Estimate(value=value), ratio)


def _perplexities(model: ModelResult, baseline: ModelResult | None) -> Iterator[_Figure]:
    others = baseline.perplexity if baseline else (None,) * len(model.perplexity)
    for one, other in zip(model.perplexity, others, strict=True):
        ratio = estimate_loss_ratio(one.window_losses, other.window_losses) if other else None
        yield _Figure("ppl", one.corpus, one.perplexity, ratio)


def _accuracies(model: ModelResult, baseline: ModelResult | None) -> Iterator[_Figure]:
    others: Sequence[TaskResult | None] = baseline.tasks if baseline else (None,) * len(model.tasks)
    for one, other in zip(model.tasks, others, strict=True):
        difference = estimate_mean([a - b for a, b in zip(one.items, other.items, strict=True)]) if other else None
        yield _Figure(one.metric, one.task, estimate_mean(one.items), difference, kind="diff")


def _speeds(model: ModelResult, baseline: ModelResult | None) -> Iterator[_Figure]:
    if model.prompt is not None:
        yield _of_repeats("prompt", None, model.prompt, baseline.prompt if baseline else None)
    others = baseline.generation if baseline else (None,) * len(model.generation)
    for name, read in _SERIES.items():
        for one, other in zip(model.generation, others, strict=True):
            repeats, against = read(one), read(other) if other else None
            if repeats is not None:
                yield _of_repeats(name, str(one.batch), repeats, against)


def _of_repeats(name: str, which: str | None, repeats: Repeats, baseline: Repeats | None) -> _Figure:
    """A median, and the paired ratio of repeats taken in turn."""
    ratio = estimate_ratio(repeats.values, baseline.values) if baseline else None
    return _Figure(name, which, Estimate(value=repeats.median), ratio)
