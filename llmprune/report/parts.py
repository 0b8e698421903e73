"""The parts of a report page."""

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
        text: what is shown.
        order: the number that it is sorted by; None: sorted by its text.
        role: what was done to the model that it is about, for a mark in that colour; None: no mark.
        code: whether it is a command or the name of a file.
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
        columns: the heads of the columns, with units.
        rows: one cell for each column.
        folded: whether it is long and folded away at first.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    folded: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart that is not drawn yet.

    Attributes:
        name: the name of its PNG file, and its address on the page.
        title: stands above it; screen readers say it.
        caption: stands below it: how to read it, and what it was measured on.
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
        what: what is missing, as a sentence.
        command: the command that makes it.
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
        name: its address on the page.
        title: its heading.
        lead: paragraphs below the heading.
        missing: what the run does not hold.
        charts: charts, in order.
        tables: tables, below the charts.
        generations: texts side by side.
    """

    name: str
    title: str
    lead: tuple[str, ...] = ()
    missing: tuple[Missing, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    generations: tuple[Generations, ...] = ()
