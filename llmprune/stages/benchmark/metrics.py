"""The figures of a benchmark by name: what ``--fail-if`` takes, and what scripts read without walking the result.

A figure of one text, task or batch size is called FIGURE.WHICH; FIGURE alone is the worst of them. With a
baseline, FIGURE_ratio is the model's over the baseline's, and FIGURE_diff (accuracies) the model's less the
baseline's, and TASK_drop the accuracy that a task lost. All have an interval from paired measurements. A single run
gives no ratio.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmprune.artifacts.records.bench import ModelResult
from llmprune.artifacts.records.estimates import Estimate
from llmprune.artifacts.records.figures import BATCHED, Reading, readings
from llmprune.artifacts.records.quantities import QUANTITIES, Quantity, accuracy_by
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
            if one.quantity.kind == "accuracy":
                _enter_drop(metrics, one, compared)
    return metrics


def drop_name(task: str) -> str:
    """The name of how much accuracy a task lost: ``gsm8k_drop``."""
    return f"{task}_drop"


def _enter_drop(metrics: dict[str, Estimate], one: Reading, difference: Estimate) -> None:
    """Enter the accuracy that a task lost, by the metric that lost most."""
    ends = difference.interval and (-difference.interval[1], -difference.interval[0])
    drop, name = Estimate(value=-difference.value, interval=ends), drop_name(str(one.which))
    metrics[name] = max(metrics.get(name, drop), drop, key=lambda estimate: estimate.value)


def metric_names(
    *,
    texts: Sequence[str],
    tasks: Sequence[tuple[str, str]],
    batch: Sequence[int],
    repeats: int,
    energy: bool,
    loaded: bool,
    compared: bool,
    agreement: bool,
    draft: bool,
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
        agreement: whether greedy choices are compared.
        draft: whether the model is measured as a draft.
    """
    singles = [one for one in QUANTITIES.values() if one.kind == "count" or one.key in {"load_seconds", "prompt"}]
    left_out = {*(() if batch else ("peak_bytes", "prompt")), *(() if loaded else ("load_seconds",))}
    measured: list[tuple[Quantity, str | None]] = [(one, None) for one in singles if one.key not in left_out]
    measured += [(QUANTITIES["ppl"], text) for text in texts]
    measured += [(accuracy_by(metric), task) for task, metric in tasks]
    measured += [(QUANTITIES[key], None) for key in ("agreement", "agreed_tokens") if agreement]
    measured += [(QUANTITIES[key], None) for key in ("draft_acceptance", "draft_speedup") if draft]
    measured += [(QUANTITIES[key], str(size)) for key in BATCHED if energy or key != "joules" for size in batch]
    names: list[str] = []
    for quantity, which in measured:
        runs = 1 if quantity.key == "load_seconds" else repeats
        has_ratio = compared and quantity.compared and (quantity.kind != "repeated" or runs > 1)
        for name in [quantity.key, quantity.comparison][: 1 + has_ratio]:
            names += [name] if which is None else [name, f"{name}.{which}"]
    names += [drop_name(task) for task, _ in tasks if compared]
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
        case "agreement":
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
        case "agreement":
            return None
        case "repeated":
            return None if one.is_one_run else estimate_paired_ratio(one.values, other.values)
