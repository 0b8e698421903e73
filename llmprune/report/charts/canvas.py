"""From a drawing to SVG that takes the page's colours and font, and to PNG for slides."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO, StringIO
from typing import Any, Protocol
from xml.sax.saxutils import escape

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from llmprune.report.theme import LIGHT, SENTINELS, Theme, with_variables

WIDE, NARROW = 7.6, 3.5  # inches; at 96 dots each the width of a page's column, and of a telephone


class Draw(Protocol):
    """A drawing of some data that waits for colours and a width."""

    def __call__(self, *, theme: Theme, width: float) -> Figure:
        """Draw it in a theme's colours, so many inches wide."""


_FONT = "DejaVu Sans"  # comes with matplotlib; the page puts its own in its place, which is hardly ever wider
_STYLE: dict[Any, Any] = {
    "font.family": _FONT,
    "font.size": 8.5,
    "text.parse_math": False,  # a model may have $ in its name
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "svg.fonttype": "none",
}


def to_svg(draw: Draw, *, name: str, width: float, title: str) -> str:
    """An ``<svg>`` element to stand in a page: it scales, and takes its colours and font from there.

    Args:
        draw: the drawing.
        name: unlike that of any other in the page; every id begins with it.
        width: inches.
        title: what a screen reader says.
    """
    out = StringIO()
    with _styled(SENTINELS) as theme, rc_context({"svg.hashsalt": name}):
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        draw(theme=theme, width=width).savefig(out, format="svg", transparent=True, metadata=metadata)
    return _inline(out.getvalue(), name=name, title=title)


def to_png(draw: Draw, *, width: float = WIDE) -> bytes:
    """The same on white, 200 dots an inch."""
    out = BytesIO()
    with _styled(LIGHT) as theme:
        draw(theme=theme, width=width).savefig(
            out, format="png", dpi=200, facecolor=theme.card, metadata={"Software": None}
        )
    return out.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure whose parts make room for each other."""
    figure = Figure(figsize=(width, height), layout="constrained")
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(w_pad=0.06, h_pad=0.06)  # type: ignore[call-arg]
    return figure


def block_ticks(axes: Axes, num_blocks: int, *, width: float) -> None:
    """Number the blocks along the horizontal axis, as many as there is room for."""
    room = num_blocks / (width * 4)
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if step >= room)
    axes.set_xticks(range(0, num_blocks, step))
    axes.set_xlim(-0.5, num_blocks - 0.5)


def plain_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 of every decade, written as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(NullFormatter())


def add_legend(figure: Figure, marks: Sequence[tuple[str, str, float]]) -> None:
    """Say above a drawing what its squares mean: (words, colour, size in points) each."""
    handles = [
        Line2D([], [], linestyle="", marker="s", color=colour, markersize=size, label=words)
        for words, colour, size in marks
    ]
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=len(handles) if figure.get_figwidth() > NARROW or len(handles) < 4 else 2,
        frameon=False,
        handletextpad=0.3,
        columnspacing=1.2,
        borderpad=0,
        handlelength=1.2,
    )


@contextmanager
def _styled(theme: Theme) -> Iterator[Theme]:
    colours: dict[Any, Any] = {
        "text.color": theme.ink,
        "axes.titlecolor": theme.ink,
        "axes.labelcolor": theme.muted,
        "axes.edgecolor": theme.muted,
        "axes.facecolor": "none",
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelcolor": theme.muted,
        "ytick.labelcolor": theme.ink,
        "grid.color": theme.line,
        "hatch.color": theme.card,
    }
    with rc_context(_STYLE | colours), warnings.catch_warnings():
        # A name in a script that the font lacks: boxes in a PNG; the page has the browser's fonts.
        warnings.filterwarnings("ignore", r"Glyph .* missing from (current )?font")
        yield theme


def _inline(svg: str, *, name: str, title: str) -> str:
    """Make a file's SVG an element: no prologue, ids of its own, no fixed size, no fixed font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'xlink:href="#', f'href="#{name}-', svg)
    svg = svg.replace(f"font-family: '{_FONT}'", "font-family: var(--font)")
    view = re.search(r'viewBox="([^"]*)"', svg)
    assert view is not None
    head = f'<svg viewBox="{view[1]}" role="img" aria-labelledby="{name}-title">'
    label = f'<title id="{name}-title">{escape(title)}</title>'
    return with_variables(head + label + svg[svg.index(">") + 1 :]).strip()
