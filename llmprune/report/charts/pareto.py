"""Chart of a sweep: perplexity against cost, and the points that no other point beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llmprune.report.charts.canvas import NARROW, add_legend, new_figure, plain_ticks
from llmprune.report.theme import Role, Theme

_WORDS: dict[Role, str] = {
    "dense": "dense",
    "blocks": "blocks removed",
    "weights": "zeros in weights",
    "both": "both",
}


@dataclass(frozen=True)
class Point:
    """One model of a sweep against one cost.

    Attributes:
        label: what was done to it, in few words.
        role: what was done to it, as a colour.
        cost: on the horizontal axis.
        perplexity: on the vertical axis.
        interval: of the perplexity; None: not known.
        best: whether no other point is better in one of both and no worse in the other.
    """

    label: str
    role: Role
    cost: float
    perplexity: float
    interval: tuple[float, float] | None
    best: bool


@dataclass(frozen=True)
class Plane:
    """Points against one cost.

    Attributes:
        cost: the name of the cost, with its unit.
        points: all that were measured under one protocol.
    """

    cost: str
    points: tuple[Point, ...]


def draw_pareto(planes: Sequence[Plane], *, theme: Theme, width: float) -> Figure:
    """Perplexity (logarithmic) against each cost in its own panel. The best points are joined and named.

    Args:
        planes: at least one, each of at least one point.
        theme: colours.
        width: inches.
    """
    columns = 1 if width <= NARROW or len(planes) == 1 else 2
    rows = -(-len(planes) // columns)
    figure = new_figure(width, 2.9 * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, plane in zip(grid, planes, strict=False):
        _draw_plane(axes, plane, theme)
    for axes in grid[len(planes) :]:
        axes.set_axis_off()
    shown = {point.role for plane in planes for point in plane.points}
    add_legend(figure, [(words, getattr(theme, role), 6.5) for role, words in _WORDS.items() if role in shown])
    return figure


def _draw_plane(axes: Axes, plane: Plane, theme: Theme) -> None:
    best = sorted((point for point in plane.points if point.best), key=lambda point: point.cost)
    axes.plot([one.cost for one in best], [one.perplexity for one in best], color=theme.muted, linewidth=1, zorder=1)
    for point in plane.points:
        colour = getattr(theme, point.role)
        if point.interval:
            axes.plot([point.cost] * 2, point.interval, color=colour, linewidth=1, zorder=2)
        face = colour if point.best else theme.card
        axes.plot([point.cost], [point.perplexity], "o", color=colour, markerfacecolor=face, markersize=6, zorder=3)
    for point in best:
        axes.annotate(
            point.label, (point.cost, point.perplexity), (5, 5), textcoords="offset points", fontsize=7.5, zorder=4
        )
    axes.set_yscale("log")
    plain_ticks(axes.yaxis)
    axes.xaxis.set_major_locator(MaxNLocator(5))  # more would run into each other
    axes.margins(x=0.14, y=0.12)
    axes.set_xlabel(plane.cost)
    axes.set_ylabel("perplexity")
    axes.grid(linewidth=0.6)
