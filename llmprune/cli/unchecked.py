"""One line about all artifacts of earlier versions that a command read, and that could not be checked."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from llmprune.artifacts.records.unchecked import UncheckedWarning
from llmprune.spelling import listed


@contextmanager
def unchecked_noted() -> Iterator[Callable[[], str | None]]:
    """Gather the warnings about artifacts without a digest; what is yielded gives the line, or None."""
    paths: dict[Path, None] = {}
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if isinstance(message, UncheckedWarning):
                paths[message.path] = None
            else:
                others(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        warnings.simplefilter("always", UncheckedWarning)
        yield lambda: _line(list(paths))


def _line(paths: list[Path]) -> str | None:
    if not paths:
        return None
    shown = listed([str(path) for path in paths])
    return f"Not checked, for an earlier llmprune wrote it without a digest: {shown}."
