"""Everything that a person or a script sees. The only module that knows rich."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table


class Console:
    """Results on stdout, progress and remarks on stderr.

    Args:
        as_json: results are JSON, for scripts.
        quiet: no progress and no remarks.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self._as_json, self._quiet = as_json, quiet
        self._out = _plain_console()
        self._err = _plain_console(stderr=True)

    def say(self, text: str) -> None:
        """Show a remark."""
        if not self._quiet:
            self._err.print(escape(text))

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Callable[[float], None]]:
        """Show a progress bar, on a terminal only; it disappears when it is done."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
        )
        hidden = self._quiet or not self._err.is_terminal
        with Progress(
            *columns,
            console=self._err,
            transient=True,
            disable=hidden,
            speed_estimate_period=math.inf,  # by itself of half a minute, in which not one large block may end
        ) as progress:
            bar = progress.add_task(escape(description), total=total)
            yield lambda steps: progress.advance(bar, steps)

    def result(self, data: Any, *, shown: Callable[[Console], None]) -> None:
        """Give a result: ``data`` as JSON with --json, else by ``shown``."""
        if self._as_json:
            typer.echo(json.dumps(data, indent=2, default=str))
        else:
            shown(self)

    def line(self, text: str) -> None:
        """Print a line of a result."""
        self._out.print(escape(text))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table: the first column to the left, numbers to the right."""
        table = Table(title=escape(title), title_justify="left", title_style="bold")
        for index, column in enumerate(columns):
            table.add_column(escape(column), justify="left" if index == 0 else "right")
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        self._out.print(table)


def complain(text: str) -> None:
    """Show an error."""
    _plain_console(stderr=True).print(f"[bold red]Error:[/] {escape(text)}")


def _plain_console(*, stderr: bool = False) -> RichConsole:
    """What is printed is what was meant: no colouring of numbers, and ``owner/name:train:text`` has no emoji."""
    return RichConsole(stderr=stderr, highlight=False, soft_wrap=True, emoji=False)
