"""What a report page is put together from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmprune.report.charts.canvas import Draw
    from llmprune.report.theme import Role


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: as it is read.
        order: what it is sorted by; None: by its text.
        role: the model that it is about, for a mark in its colour; None: no mark.
        code: whether it is something to type, or the name of a file.
    """

    text: str
    order: float | None = None
    role: Role | None = None
    code: bool = False


@dataclass(frozen=True)
class Table:
    """A table that a reader can sort.

    Attributes:
        caption: what it holds.
        columns: their heads, with units.
        rows: of as many cells each.
        folded: whether it is long, and shown only when asked for.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    folded: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart, still to be drawn.

    Attributes:
        name: of its PNG file, and in the page's addresses.
        title: above it; also what a screen reader says.
        caption: beneath it: how to read it, and what it was measured on.
        draw: draws it.
    """

    name: str
    title: str
    caption: str
    draw: Draw


@dataclass(frozen=True)
class Missing:
    """Something that the run does not hold.

    Attributes:
        what: a sentence.
        command: what to type to have it.
    """

    what: str
    command: str


@dataclass(frozen=True)
class Generation:
    """What one model wrote.

    Attributes:
        label: the model.
        role: what was done to it.
        text: what it wrote.
    """

    label: str
    role: Role
    text: str


@dataclass(frozen=True)
class Generations:
    """What all models wrote after one prompt."""

    prompt: str
    texts: tuple[Generation, ...]


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: in the page's addresses.
        title: its head.
        lead: paragraphs under it.
        missing: what is not there.
        charts: in order.
        tables: beneath them.
        generations: texts side by side.
    """

    name: str
    title: str
    lead: tuple[str, ...] = ()
    missing: tuple[Missing, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    generations: tuple[Generations, ...] = ()
