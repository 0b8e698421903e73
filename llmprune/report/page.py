"""The page: one HTML file that needs no other file, a pure function of what the run holds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from llmprune.report.contents import RunContents
from llmprune.report.parts import Section
from llmprune.report.sections.experts import experts_section
from llmprune.report.sections.generations import generations_section
from llmprune.report.sections.measured import measured_section
from llmprune.report.sections.provenance import provenance_section
from llmprune.report.sections.search import search_section
from llmprune.report.sections.sparsity import sparsity_section
from llmprune.report.sections.sweep import sweep_section
from llmprune.report.summary import headlines
from llmprune.report.theme import style_sheet

GENERATOR = '<meta name="generator" content="llmprune'
"""Stands near the start of every page. A page is recognised by it."""
_FIGURES = re.compile(r'<meta name="figures" content="([a-z0-9 -]*)">')


@dataclass(frozen=True)
class Drawn:
    """A chart as SVG.

    Attributes:
        wide: for a page's column.
        narrow: for a telephone.
    """

    wide: str
    narrow: str


def report_sections(contents: RunContents) -> list[Section]:
    """All sections, also empty ones, in the order of the page; that of experts where the run has something of them."""
    makers = (
        measured_section,
        search_section,
        *([experts_section] if contents.has_experts else []),
        sparsity_section,
        sweep_section,
        generations_section,
        provenance_section,
    )
    return [make(contents) for make in makers]


def render_page(
    contents: RunContents, sections: Sequence[Section], drawn: Mapping[str, Drawn], *, made: str, version: str
) -> str:
    """The whole page.

    Args:
        contents: what the run holds.
        sections: the sections of the page.
        drawn: the drawn charts by their names.
        made: the time of making, as text.
        version: the version of llmprune.
    """
    environment = Environment(undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    folder = files("llmprune.report").joinpath("templates")
    text = {name: folder.joinpath(name).read_text("utf-8") for name in ("page.html.jinja", "page.css", "page.js")}
    return environment.from_string(text["page.html.jinja"]).render(
        contents=contents,
        headlines=headlines(contents),
        sections=sections,
        figures={name: (Markup(one.wide), Markup(one.narrow)) for name, one in drawn.items()},  # noqa: S704 (our own)
        style=Markup(style_sheet() + text["page.css"]),  # noqa: S704
        script=Markup(text["page.js"]),  # noqa: S704
        made=made,
        version=version,
    )


def figure_names(page: str) -> list[str]:
    """The names of the charts of a page that ``render_page`` made, or of its start."""
    found = _FIGURES.search(page)
    return found[1].split() if found is not None else []
