"""Everything that a person or a script sees. The only module that knows rich."""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

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

from llmprune.errors import LlmpruneError
from llmprune.escaping import for_terminal
from llmprune.spelling import as_options


class Console:
    """Results on stdout, progress and remarks on stderr.

    Args:
        as_json: results are JSON, for scripts.
        quiet: no progress and no remarks.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self._as_json, self._quiet = as_json, quiet
        self._stdout = _Stream(sys.stdout)
        self._out = _terminal(self._stdout)
        self._err = _terminal(_Stream(sys.stderr))

    def say(self, text: str) -> None:
        """Show a remark."""
        if not self._quiet:
            self._err.print(_shown(as_options(text)))

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Callable[[float], None]]:
        """Show a progress bar, on a terminal only; it disappears when it is done."""
        columns = (
            SpinnerColumn("line"),
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
            bar = progress.add_task(_shown(description), total=total)
            yield lambda steps: progress.advance(bar, steps)

    def result(self, data: Any, *, shown: Callable[[Console], None]) -> None:
        """Give a result: ``data`` as JSON with --json, else by ``shown``.

        Raises:
            LlmpruneError: stdout does not take it, as on a full disk. A reader who has gone (``| head -1``) is fine.
        """
        if self._as_json:
            self._stdout.write(json.dumps(data, indent=2, default=str) + "\n")
            self._stdout.flush()
        else:
            shown(self)
        failure = self._stdout.failure
        if failure is not None and not isinstance(failure, BrokenPipeError):
            raise LlmpruneError(
                f"The result could not be printed ({failure.strerror}); everything that the command wrote is kept."
            )

    def line(self, text: str) -> None:
        """Print a line of a result."""
        self._out.print(_shown(text))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table: the first column to the left, numbers to the right."""
        table = Table(title=_shown(title), title_justify="left", title_style="bold")
        for index, column in enumerate(columns):
            table.add_column(_shown(column), justify="left" if index == 0 else "right")
        for row in rows:
            table.add_row(*(_shown(cell) for cell in row))
        self._out.print(table)


def complain(text: str) -> None:
    """Show an error."""
    _terminal(_Stream(sys.stderr)).print(f"[bold red]Error:[/] {_shown(as_options(text))}")


def remark(text: str) -> None:
    """Show a remark on a command as a whole."""
    _terminal(_Stream(sys.stderr)).print(_shown(as_options(text)))


def prepare_streams() -> None:
    """Let stdout and stderr replace what their encoding has no character for, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def give_up_stdout(error: OSError) -> None:
    """Say that stdout does not take what is to be printed, and print no more there."""
    _discard(sys.stdout)
    complain(f"The output could not be printed ({error.strerror}).")


class _Stream:
    """stdout or stderr as rich is to see it: one that never fails.

    Work of hours must not end because a remark meets a closed pipe or a full disk. What comes after a failure goes
    nowhere.

    Attributes:
        failure: the first one; None: there was none.
    """

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = io.StringIO() if stream is None else stream
        self.encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self.failure: OSError | None = None

    def isatty(self) -> bool:
        """Whether a person looks at it."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The descriptor behind it."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write a text, if that can be done."""
        with self._failure_kept():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Send on what was written, if that can be done."""
        with self._failure_kept():
            self._stream.flush()

    @contextmanager
    def _failure_kept(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = self.failure or error
            _discard(self._stream)


def _shown(text: str) -> str:
    """A text as rich prints it: as it is, but for what would command the terminal."""
    return escape("\n".join(map(for_terminal, text.split("\n"))))


def _terminal(stream: _Stream) -> RichConsole:
    """What is printed is what was meant: no colouring of numbers, and ``owner/name:train:text`` has no emoji."""
    return RichConsole(file=cast(IO[str], stream), highlight=False, soft_wrap=True, emoji=False)


def _discard(stream: IO[str]) -> None:
    """Let what a stream still holds go nowhere: Python flushes it once more at the end, and would fail again."""
    with suppress(OSError), Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
