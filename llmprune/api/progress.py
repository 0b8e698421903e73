"""What the stages say, for a program: log lines instead of a console."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOGGER = logging.getLogger("llmprune")


class Logged:
    """A ``Progress`` that logs: remarks and the beginning of every task, at the level INFO."""

    def say(self, text: str) -> None:
        """Log a remark."""
        _LOGGER.info(text)

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Callable[[float], None]]:
        """Log that a task begins."""
        _LOGGER.info("%s ...", description)
        yield lambda _: None
