"""Charts of what was measured: dense above pruned, each figure with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llmprune.report.charts.canvas import NARROW, new_figure, plain_ticks
from llmprune.report.theme import Role, Theme

_FAR = 8.0  # values further apart than this are drawn on a logarithmic axis


@dataclass(frozen=True)
class Bar:
    """One model's figure.

    Attributes:
        label: the model.
        role: what was done to it.
        value: the figure.
        interval: the ends of its interval; None: not known.
        text: the figure as written beside the bar.
    """

    label: str
    role: Role
    value: float
    interval: tuple[float, float] | None
    text: str


@dataclass(frozen=True)
class Panel:
    """Figures of one protocol. Only these compare.

    Attributes:
        title: what was measured, with its unit.
        bars: the dense model's first.
    """

    title: str
    bars: tuple[Bar, ...]


def draw_panels(panels: Sequence[Panel], *, theme: Theme, width: float) -> Figure:
    """One panel for each protocol, each with its own axis.

    Args:
        panels: at least one.
        theme: colours.
        width: inches.
    """
    columns = 1 if width <= NARROW or len(panels) == 1 else 2
    rows = -(-len(panels) // columns)
    tallest = max(len(panel.bars) for panel in panels)
    figure = new_figure(width, rows * (0.62 + 0.34 * tallest))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        _draw_panel(axes, panel, theme)
        axes.set_ylim(tallest - 0.5, -0.5)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure


def _draw_panel(axes: Axes, panel: Panel, theme: Theme) -> None:
    values = [bar.value for bar in panel.bars]
    logarithmic = min(values) > 0 and max(values) > _FAR * min(values)
    for row, bar in enumerate(panel.bars):
        colour = getattr(theme, bar.role)
        if logarithmic:
            axes.plot([bar.value], [row], "o", color=colour, markersize=6)
        else:
            axes.barh(row, bar.value, height=0.56, color=colour, linewidth=0)
        ends = bar.interval or (bar.value, bar.value)
        axes.plot(ends, [row, row], color=theme.ink, linewidth=1.2, marker="|", markersize=6)
        axes.annotate(
            bar.text, (max(bar.value, ends[1]), row), (6, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_title(panel.title)
    axes.set_yticks(range(len(panel.bars)), [bar.label for bar in panel.bars])
    far = max(bar.interval[1] if bar.interval else bar.value for bar in panel.bars)
    if logarithmic:
        axes.set_xscale("log")
        plain_ticks(axes.xaxis)
        axes.set_xlim(min(values) / 1.5, far * 8)
    else:
        axes.set_xlim(0, far * 1.55 or 1)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", linewidth=0.6)
