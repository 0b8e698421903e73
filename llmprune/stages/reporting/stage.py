"""``llmprune report``: one page of everything that a run measured, and its figures as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from llmprune.artifacts.files.atomic import atomic_directory, write_text_atomic
from llmprune.artifacts.files.ownership import Owned, require_own
from llmprune.artifacts.run import RunDirectory
from llmprune.report.charts.canvas import NARROW, WIDE, to_png, to_svg
from llmprune.report.page import GENERATOR, Drawn, figure_names, render_page, report_sections
from llmprune.report.parts import Chart, Missing
from llmprune.stages.common.progress import Progress
from llmprune.stages.reporting.contents import read_contents
from llmprune.version import __version__

PAGE = "index.html"


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        page: the HTML file.
        figures: the PNG files.
        missing: what the run does not hold, and the command that makes it.
    """

    page: Path
    figures: tuple[Path, ...]
    missing: tuple[Missing, ...]


def report(run: RunDirectory, *, out: Path | None = None, progress: Progress) -> Report:
    """Draw what a run holds.

    Args:
        run: the run directory. It is only read, unless the report goes into it.
        out: the report's directory; None: ``report/`` of the run. An older report there is replaced.
        progress: who listens.

    Raises:
        ArtifactError: nothing to report, or an artifact that cannot be read, is of another schema or another model.
        OutputExistsError: ``out`` holds anything but a report.
        LlmpruneError: the disk is full; an older report is intact.
    """
    out = out or run.report
    _check_output(out)
    contents = read_contents(run)
    for remark in contents.remarks:
        progress.say(remark)
    sections = report_sections(contents)
    charts = [chart for section in sections for chart in section.charts]
    drawn, pictures = _draw(charts, progress)
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    page = render_page(contents, sections, drawn, made=made, version=__version__)
    with atomic_directory(out, overwrite=True, owned=_report_files) as partial:
        write_text_atomic(partial / PAGE, page)
        for name, picture in pictures.items():
            (partial / name).write_bytes(picture)
    missing = tuple(one for section in sections for one in section.missing)
    return Report(out / PAGE, tuple(out / name for name in pictures), missing)


def _draw(charts: Sequence[Chart], progress: Progress) -> tuple[dict[str, Drawn], dict[str, bytes]]:
    """Every chart for the page, and as a PNG file of its name."""
    drawn, pictures = {}, {}
    with progress.task("Drawing", len(charts)) as advance:
        for chart in charts:
            wide, narrow = (
                to_svg(chart.draw, name=f"{chart.name}-{size}", width=width, title=chart.title)
                for size, width in (("wide", WIDE), ("narrow", NARROW))
            )
            drawn[chart.name] = Drawn(wide, narrow)
            pictures[f"{chart.name}.png"] = to_png(chart.draw)
            advance(1)
    return drawn, pictures


def _check_output(out: Path) -> None:
    """Check that ``out`` is empty or holds only an older report.

    Raises:
        OutputExistsError: it holds anything else.
    """
    require_own(out, _report_files(out), instead="give another directory with `out`.")


def _report_files(out: Path) -> Owned:
    """Which files of a directory are a report's: its page, and the pictures that it says were drawn beside it."""
    page, names = out / PAGE, set[str]()
    if page.is_file():
        with page.open(encoding="utf-8", errors="replace") as file:
            start = file.read(1000)
        names = {PAGE, *(f"{name}.png" for name in figure_names(start))} if GENERATOR in start else names
    return lambda path: str(path) in names
