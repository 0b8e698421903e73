"""Chart of where the zeros are: block by matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from llmprune.report.charts.canvas import block_ticks, new_figure
from llmprune.report.charts.heat import draw_cell, draw_key, even_scale
from llmprune.report.theme import Theme


def draw_sparsity(
    shares: Mapping[tuple[int, str], float], kinds: Sequence[str], num_blocks: int, *, theme: Theme, width: float
) -> Figure:
    """Heat map with a row for each kind of matrix: the share of its weights that are zero.

    Args:
        shares: by (block, kind), from 0 to 1.
        kinds: rows, from the top; every kind in ``shares`` is one of them.
        num_blocks: columns.
        theme: colours.
        width: inches.
    """
    tall = 0.27 * max(2, len(kinds))
    figure = new_figure(width, tall + 1.2)
    cells, key = figure.subplots(2, 1, height_ratios=[tall, 0.13])
    scale = even_scale(0.0, 1.0)
    for (block, kind), share in shares.items():
        draw_cell(cells, block, kinds.index(kind), scale.colour(share, theme))
    block_ticks(cells, num_blocks, width=width)
    cells.set_ylim(len(kinds) - 0.5, -0.5)
    cells.set_yticks(range(len(kinds)), list(kinds))
    cells.set_xlabel("block of the checkpoint")
    cells.spines[:].set_visible(False)
    draw_key(key, scale, theme, spelling=".0%")
    key.set_xlabel("share of weights that are zero")
    return figure
