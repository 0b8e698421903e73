"""What is told of a report page once it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmprune.cli.console import Console

if TYPE_CHECKING:
    from llmprune.stages.reporting import Report


def show_report(console: Console, written: Report) -> None:
    """What is missing and how to get it, and where the page lies."""
    for one in written.missing:
        console.line(f"{one.what} To have it in the report, type: {one.command}")
    console.line(f"Written to {written.page} ({written.page.stat().st_size / 1e3:,.0f} kB, needs nothing else).")
    if written.figures:
        console.line(f"The same {len(written.figures)} figures as PNG beside it.")
