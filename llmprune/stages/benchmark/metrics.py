"""The figures of a benchmark by name: what ``--fail-if`` takes, and what scripts read without walking the result.

A figure of one text, task or batch size is called FIGURE.WHICH; FIGURE alone is the worst of them. With a
baseline, FIGURE_ratio is the model's over the baseline's, and FIGURE_diff (accuracies) the model's less the
baseline's. Both have an interval from paired measurements. A single run gives no ratio.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmprune.artifacts.records.bench import Estimate, ModelResult
from llmprune.artifacts.records.figures import BATCHED, QUANTITIES, Quantity, Reading, accuracy_by, readings
from llmprune.evaluation.intervals import estimate_loss_ratio, estimate_mean
from llmprune.evaluation.repeats import estimate_paired_ratio


def collect_metrics(model: ModelResult, baseline: ModelResult | None) -> dict[str, Estimate]:
    """All figures of ``model``, and against ``baseline``, by name."""
    metrics: dict[str, Estimate] = {}
    known = {one.named(one.quantity.key): one for one in readings(baseline)} if baseline else {}
    for one in readings(model):
        _enter(metrics, one, one.quantity.key, _own(one))
        other = known.get(one.named(one.quantity.key))
        if other is not None and (compared := _compared(one, other)) is not None:
            _enter(metrics, one, one.quantity.comparison, compared)
    return metrics


def metric_names(
    *,
    texts: Sequence[str],
    tasks: Sequence[tuple[str, str]],
    batch: Sequence[int],
    repeats: int,
    energy: bool,
    loaded: bool,
    compared: bool,
) -> list[str]:
    """What ``collect_metrics`` will name, known before anything is measured.

    Args:
        texts: their names.
        tasks: pairs of task and metric.
        batch: sizes that speed is measured with; none: it is not.
        repeats: of every speed, at least.
        energy: whether the platform counts energy.
        loaded: whether the model is loaded whole from its files.
        compared: whether there is a baseline.
    """
    singles = [one for one in QUANTITIES.values() if one.kind == "count" or one.key in {"load_seconds", "prompt"}]
    left_out = {*(() if batch else ("peak_bytes", "prompt")), *(() if loaded else ("load_seconds",))}
    measured: list[tuple[Quantity, str | None]] = [(one, None) for one in singles if one.key not in left_out]
    measured += [(QUANTITIES["ppl"], text) for text in texts]
    measured += [(accuracy_by(metric), task) for task, metric in tasks]
    measured += [(QUANTITIES[key], str(size)) for key in BATCHED if energy or key != "joules" for size in batch]
    names: list[str] = []
    for quantity, which in measured:
        runs = 1 if quantity.key == "load_seconds" else repeats
        has_ratio = compared and quantity.compared and (quantity.kind != "repeated" or runs > 1)
        for name in [quantity.key, quantity.comparison][: 1 + has_ratio]:
            names += [name] if which is None else [name, f"{name}.{which}"]
    return list(dict.fromkeys(names))


def _enter(metrics: dict[str, Estimate], one: Reading, name: str, estimate: Estimate) -> None:
    """Enter an estimate under its full name, and under the short one if it is the worst so far."""
    metrics[one.named(name)] = estimate
    worst = metrics.setdefault(name, estimate)
    if (estimate.value > worst.value) == one.quantity.lower_is_better:
        metrics[name] = estimate


def _own(one: Reading) -> Estimate:
    """One model's figure. An accuracy has Student's interval over its items, a median of repeats has none."""
    match one.quantity.kind:
        case "accuracy":
            return estimate_mean(one.values)
        case "perplexity":
            return Estimate(value=one.value, interval=one.interval)
        case "count" | "repeated":
            return Estimate(value=one.value)


def _compared(one: Reading, other: Reading) -> Estimate | None:
    """The paired comparison of two models' figures; None: there is none to make."""
    if not one.quantity.compared:
        return None
    match one.quantity.kind:
        case "count":
            return Estimate(value=one.value / other.value)
        case "perplexity":
            return estimate_loss_ratio(one.values, other.values)
        case "accuracy":
            return estimate_mean([mine - theirs for mine, theirs in zip(one.values, other.values, strict=True)])
        case "repeated":
            return None if one.is_one_run else estimate_paired_ratio(one.values, other.values)
