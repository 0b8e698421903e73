"""What the heat maps share: values sorted into a few steps of colour, squares, and their key."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from llmprune.report.theme import HEAT_STEPS, Theme


@dataclass(frozen=True)
class Scale:
    """Steps of colour.

    Attributes:
        bounds: HEAT_STEPS - 1 rising values between the steps.
    """

    bounds: tuple[float, ...]

    def colour(self, value: float, theme: Theme) -> str:
        """Of the step that ``value`` belongs to."""
        return theme.heat[bisect_right(self.bounds, value)]


def even_scale(low: float, high: float) -> Scale:
    """Steps of one width."""
    return Scale(tuple(low + (high - low) * step / HEAT_STEPS for step in range(1, HEAT_STEPS)))


def ranked_scale(values: Sequence[float]) -> Scale:
    """Steps that hold about as many values each: losses lie close together, and some lie far away."""
    ranked = sorted(values) or [0.0]
    return Scale(tuple(ranked[min(len(ranked) - 1, len(ranked) * step // HEAT_STEPS)] for step in range(1, HEAT_STEPS)))


def draw_cell(axes: Axes, x: float, y: float, colour: str, *, side: float = 0.92) -> None:
    """A square of heat centred at (x, y); one unit is the whole cell."""
    axes.add_patch(Rectangle((x - side / 2, y - side / 2), side, side, facecolor=colour, linewidth=0))


def draw_key(axes: Axes, scale: Scale, theme: Theme, *, spelling: str) -> None:
    """The steps of colour beside each other, with the values between them."""
    for step, colour in enumerate(theme.heat):
        axes.add_patch(Rectangle((step, 0), 0.96, 1, facecolor=colour, linewidth=0))
    axes.set_xlim(0, HEAT_STEPS)
    axes.set_ylim(0, 1)
    shown = range(1, HEAT_STEPS, 2)
    axes.set_xticks(list(shown), [format(scale.bounds[step - 1], spelling) for step in shown])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
