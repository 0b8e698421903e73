"""How a sweep is shown: a row for each point, the Pareto sets, the best point, and how all were measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from llmprune.cli.console import Console
from llmprune.spelling import as_options

if TYPE_CHECKING:
    from llmprune.artifacts.records.sweep import SweepPoint, SweepResult
    from llmprune.stages.sweeping import Best, Limits, PointDone


def point_teller(console: Console) -> Callable[[PointDone], None]:
    """Says a line for every point as it finishes."""
    from llmprune.stages.common.plans import spell_seconds

    def tell(done: PointDone) -> None:
        point = done.point
        seconds = spell_seconds(point.prune_seconds + point.bench_seconds)
        left = f", about {spell_seconds(done.seconds_left)} left" if done.seconds_left else ""
        console.say(f"{done.number}/{done.total} {point.name}: {_spell_point(point)} ({seconds}{left})")

    return tell


def show_sweep(console: Console, result: SweepResult, best: Sequence[Best], limits: Limits) -> None:
    """The table, narrow enough for a terminal, and below it what it means."""
    texts = [protocol.corpus.name for protocol in result.measuring.perplexity]
    timed = result.measuring.speed is not None
    accuracies = _accuracies(result)
    columns = ["", "stored", "not zero", *(f"ppl {name}" for name in texts), "ratio", *accuracies.values()]
    columns += ["time", "fronts"] if timed else ["fronts"]
    rows = [_row(point, result, texts, accuracies, timed=timed) for point in result.measured]
    console.table(f"{result.model.name}, {result.pruning.method}", columns, rows)
    for line in (*_fronts(result), *_skipped(result), *_protocols(result), *_best(best, limits)):
        console.line(line)


def _spell_point(point: SweepPoint) -> str:
    """A point's figures in a line."""
    from llmprune.report.bench_text import spell_ratio

    latency = point.latency_ratio
    timed = [] if latency is None else [f"time per token x {spell_ratio(latency)}"]
    said = [f"{_millions(point.params)} parameters", f"{_millions(point.effective_params)} not zero"]
    return ", ".join([*said, f"perplexity x {spell_ratio(point.ppl_ratio)}", *timed])


def _accuracies(result: SweepResult) -> dict[str, str]:
    """The first metric of each task, by its full name, and the title of its column."""
    tasks = result.measuring.tasks.tasks if result.measuring.tasks and result.dense else ()
    names = [name.partition(".") for name in result.dense.metrics] if result.dense else []
    first = {task: next(metric for metric, _, which in names if which == task and metric != "ppl") for task in tasks}
    return {f"{metric}.{task}": f"{task} {metric}" for task, metric in first.items()}


def _row(
    point: SweepPoint, result: SweepResult, texts: Sequence[str], accuracies: Iterable[str], *, timed: bool
) -> list[str]:
    latency = point.latency_ratio
    fronts = result.pareto
    letters = [
        letter
        for letter, names in (("P", fronts.params), ("N", fronts.effective_params), ("T", fronts.latency))
        if point.name in names
    ]
    return [
        point.name,
        _millions(point.params),
        _millions(point.effective_params),
        *(f"{point.metrics[f'ppl.{name}'].value:,.2f}" for name in texts),
        f"{point.ppl_ratio.value:.3f}",
        *(f"{point.metrics[name].value:.3f}" for name in accuracies),
        *([f"{latency.value:.3f}" if latency else "-"] if timed else []),
        " ".join(letters),
    ]


def _fronts(result: SweepResult) -> Iterator[str]:
    """What the letters mean: no point is better in both perplexity and that figure."""
    fronts = result.pareto
    named = [("P, by stored parameters", fronts.params), ("N, by parameters not zero", fronts.effective_params)]
    for title, names in [*named, ("T, by time of a generated token", fronts.latency)]:
        if names:
            yield f"Pareto set {title}: {'; '.join(names)}."


def _skipped(result: SweepResult) -> Iterator[str]:
    for one in result.skipped:
        yield f"Left out: {one.name}. {as_options(one.reason)}"


def _protocols(result: SweepResult) -> Iterator[str]:
    measuring, pruning = result.measuring, result.pruning
    for protocol in measuring.perplexity:
        bos = "each with BOS" if protocol.bos else "no BOS"
        yield (
            f"Perplexity: {protocol.corpus.origin}, {protocol.windows} windows of {protocol.seq_len} tokens, {bos}, "
            f"{measuring.dtype}; ratio to the dense model's, the worst of several texts."
        )
    if measuring.tasks is not None:
        items = f"the first {measuring.tasks.limit} items of each task" if measuring.tasks.limit else "all items"
        yield f"Tasks: lm-eval {measuring.tasks.lm_eval}, {items}, {measuring.dtype}."
    speed = measuring.speed
    if speed is not None:
        yield (
            f"Time of a generated token over the dense model's, in turn with it: batch "
            f"{', '.join(map(str, speed.batch))} x {speed.new_tokens} tokens after {speed.prompt_tokens}, the worst of "
            f"several sizes; {result.machine}."
        )
    yield (
        f"Calibrated on {pruning.windows} x {pruning.seq_len} tokens of {pruning.corpus.described}; blocks ranked by "
        f"{pruning.metric}. Zeros make dense kernels no faster. "
        "Intervals are in the files of bench/."
    )


def _best(best: Sequence[Best], limits: Limits) -> Iterator[str]:
    where = f"within {limits}" if str(limits) else "of all, without a limit"
    for one in best:
        yield f"Best {where} ({one.what}): {one.point.name}: {_spell_point(one.point)}."
        if one.point.checkpoint is not None:
            yield f"  in {one.point.checkpoint} of the run directory"
        else:
            yield f"  to make it again: {' && '.join(one.point.commands[:-1])}"


def _millions(number: float) -> str:
    return f"{number / 1e6:,.1f}M" if number >= 1e5 else f"{number:,.0f}"
