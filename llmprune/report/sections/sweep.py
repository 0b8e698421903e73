"""The points of a sweep, and those that no other point beats."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from llmprune.artifacts.records.sweep import DENSE
from llmprune.report.charts.pareto import Plane, Point, draw_pareto
from llmprune.report.parts import Cell, Chart, Missing, Section, Table
from llmprune.report.wording import TIMES, interval, perplexity_protocol, spelled
from llmprune.spelling import as_options

if TYPE_CHECKING:
    from llmprune.artifacts.records.sweep import Axis, SweepPoint, SweepResult
    from llmprune.report.contents import RunContents
    from llmprune.report.theme import Role

_AXES: dict[Axis, tuple[str, float]] = {
    "params": ("stored parameters, millions", 1e-6),
    "effective_params": ("parameters that are not zero, millions", 1e-6),
    "latency": ("time of a generated token, against dense", 1.0),
}
_TITLE = "What the best trade is"


def sweep_section(contents: RunContents) -> Section:
    """The Pareto plot, and a table of all points with the commands that make them."""
    sweep = contents.sweep
    if sweep is None or not sweep.measured:
        command = "llmprune sweep --targets 10%,20% --sparsity 0.5,0.7"
        return Section("sweep", _TITLE, missing=(Missing("No sweep was made in this run.", command),))
    planes = [plane for axis in _AXES if (plane := _plane(sweep, axis)).points]
    settled = {point.name for point in sweep.measured} | {one.name for one in sweep.skipped}
    due = [name for name in sweep.planned if name not in settled]
    missing = [Missing(f"Still to be done: {', '.join(due)}.", "llmprune sweep")] if due else []
    return Section(
        "sweep",
        _TITLE,
        lead=(_told(sweep), *(f"Left out: {one.name}. {as_options(one.reason)}" for one in sweep.skipped)),
        missing=tuple(missing),
        charts=(_chart(planes),),
        tables=(_table(sweep), _commands_table(sweep)),
    )


def _told(sweep: SweepResult) -> str:
    texts = "; ".join(perplexity_protocol(one, sweep.measuring.dtype) for one in sweep.measuring.perplexity)
    return (
        f"{len(sweep.points)} models, pruned on {sweep.pruning.windows} windows of {sweep.pruning.seq_len} tokens of "
        f"{sweep.pruning.corpus.origin} (blocks by {sweep.pruning.metric}, weights by {sweep.pruning.method}). "
        f"Perplexity (the worst, where there are several texts): {texts}."
    )


def _plane(sweep: SweepResult, axis: Axis) -> Plane:
    title, unit = _AXES[axis]
    best = getattr(sweep.pareto, axis)
    points = tuple(
        Point(one.name, _role(one), cost * unit, ppl.value, ppl.interval, one.name in best)
        for one in sweep.measured
        if (cost := one.along(axis)) is not None and (ppl := one.metrics.get("ppl")) is not None
    )
    return Plane(title, points)


def _role(point: SweepPoint) -> Role:
    if point.name == DENSE:
        return "dense"
    return "both" if point.removed and point.pattern else "blocks" if point.removed else "weights"


def _chart(planes: list[Plane]) -> Chart:
    return Chart(
        "pareto",
        "Perplexity against what it costs",
        "Lower and further to the left is better. Filled points are joined and named: no other point is better in "
        "both. Vertical lines are 95% intervals of the perplexity.",
        partial(draw_pareto, planes),
    )


def _table(sweep: SweepResult) -> Table:
    rows = []
    for one in sweep.measured:
        ppl, ratio, latency = one.metrics["ppl"], one.ppl_ratio, one.latency_ratio
        fronts = [axis.replace("_", " ") for axis in _AXES if one.name in getattr(sweep.pareto, axis)]
        rows.append(
            (
                Cell(one.name, role=_role(one)),
                Cell(f"{one.params:,.0f}", one.params),
                Cell(f"{one.effective_params:,.0f}", one.effective_params),
                Cell(interval(ppl, lambda value: spelled("perplexity", value)), ppl.value),
                Cell(f"{TIMES} {interval(ratio, '{:.3f}'.format)}", ratio.value),
                Cell(f"{TIMES} {interval(latency, '{:.3f}'.format)}", latency.value) if latency else Cell(""),
                Cell(", ".join(fronts), len(fronts)),
            )
        )
    columns = ("model", "parameters", "not zero", "perplexity", "against dense", "time per token", "best in")
    return Table("Points of the sweep", columns, tuple(rows))


def _commands_table(sweep: SweepResult) -> Table:
    rows = tuple((Cell(one.name, role=_role(one)), Cell("\n".join(one.commands), code=True)) for one in sweep.points)
    return Table("Commands that make each point again", ("model", "commands"), rows, folded=True)
