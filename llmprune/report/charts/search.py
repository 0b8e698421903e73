"""Charts of a search: the loss of every candidate in every round, and the importance of blocks against depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llmprune.report.charts.canvas import add_legend, block_ticks, new_figure
from llmprune.report.charts.heat import Scale, draw_cell, draw_key, ranked_scale
from llmprune.report.theme import Theme

_DROPPED = 0.6  # side of the square of a candidate that was dropped early


@dataclass(frozen=True)
class CandidateMark:
    """One candidate in one round.

    Attributes:
        block: its index.
        loss: mean over the tokens it saw, in nats/token.
        complete: whether it saw all of them.
    """

    block: int
    loss: float
    complete: bool


@dataclass(frozen=True)
class SearchRound:
    """One decided round.

    Attributes:
        removed: the block that was removed.
        loss: of the model without it, in nats/token.
        candidates: all of them.
    """

    removed: int
    loss: float
    candidates: tuple[CandidateMark, ...]

    def above(self, candidate: CandidateMark) -> float:
        """How far a candidate's loss lies above that of the removed block; at least 0."""
        return max(0.0, candidate.loss - self.loss)


@dataclass(frozen=True)
class Profile:
    """One quantity of every block.

    Attributes:
        title: the quantity, with its unit.
        values: its values by block; a block without a value is left out.
        partial: blocks whose value comes from a part of the tokens.
    """

    title: str
    values: dict[int, float]
    partial: frozenset[int] = frozenset()


def draw_rounds(rounds: Sequence[SearchRound], num_blocks: int, *, theme: Theme, width: float) -> Figure:
    """Heat map with a row for each round: how much worse each candidate is than the block that was removed.

    Args:
        rounds: in order, at least one.
        num_blocks: number of blocks of the dense model.
        theme: colours.
        width: inches.
    """
    tall = 0.27 * max(2, len(rounds))
    figure = new_figure(width, tall + 1.55)
    cells, key = figure.subplots(2, 1, height_ratios=[tall, 0.13])
    scale = ranked_scale([one.above(mark) for one in rounds for mark in one.candidates if mark.block != one.removed])
    _draw_cells(cells, rounds, scale, theme)
    block_ticks(cells, num_blocks, width=width)
    cells.set_xlabel("block, by its index in the dense model")
    draw_key(key, scale, theme, spelling=".2g")
    key.set_xlabel("loss above that of the removed block, nats/token")
    marks = [
        ("removed", theme.weights, 8),
        ("saw every token", theme.heat[5], 8),
        ("dropped early", theme.heat[5], 4.5),
    ]
    add_legend(figure, marks)
    return figure


def draw_profiles(
    profiles: Sequence[Profile], removed: Sequence[int], num_blocks: int, *, theme: Theme, width: float
) -> Figure:
    """Bars against depth, with a panel for each quantity and removed blocks in colour.

    Args:
        profiles: at least one.
        removed: removed blocks.
        num_blocks: number of blocks of the dense model.
        theme: colours.
        width: inches.
    """
    figure = new_figure(width, 1.55 * len(profiles) + 0.45)
    panels = figure.subplots(len(profiles), 1, sharex=True, squeeze=False)[:, 0]
    for axes, profile in zip(panels, profiles, strict=True):
        for block, value in profile.values.items():
            colour = theme.blocks if block in removed else theme.dense
            hollow = block in profile.partial
            axes.bar(
                block,
                value,
                width=0.72,
                facecolor="none" if hollow else colour,
                edgecolor=colour,
                linewidth=1.0,
            )
        axes.set_title(profile.title)
        axes.grid(axis="y", linewidth=0.6)
        block_ticks(axes, num_blocks, width=width)
    panels[-1].set_xlabel("block, by its index in the dense model")
    return figure


def _draw_cells(axes: Axes, rounds: Sequence[SearchRound], scale: Scale, theme: Theme) -> None:
    for row, decided in enumerate(rounds):
        for mark in decided.candidates:
            if mark.block != decided.removed:
                side = 0.92 if mark.complete else _DROPPED
                draw_cell(axes, mark.block, row, scale.colour(decided.above(mark), theme), side=side)
        _draw_removed(axes, decided.removed, row, theme)
    axes.set_ylim(len(rounds) - 0.5, -0.5)
    axes.set_yticks(range(len(rounds)), [str(row + 1) for row in range(len(rounds))])
    heads: dict[str, Any] = {"fontsize": 8.5, "color": theme.muted}
    axes.set_title("round", loc="left", **heads)
    axes.set_title("loss after it, nats/token", loc="right", **heads)
    losses = axes.secondary_yaxis("right")
    losses.set_yticks(range(len(rounds)), [f"{one.loss:.3f}" for one in rounds])
    for spine in (*axes.spines.values(), *losses.spines.values()):
        spine.set_visible(False)
    losses.tick_params(length=0)


def _draw_removed(axes: Axes, x: float, y: float, theme: Theme) -> None:
    draw_cell(axes, x, y, theme.weights)
    for slope in (-1, 1):
        axes.plot([x - 0.24, x + 0.24], [y - 0.24 * slope, y + 0.24 * slope], color=theme.card, linewidth=1.3)
