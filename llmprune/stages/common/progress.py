"""How a stage reports what it is doing, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol


class Progress(Protocol):
    """A listener: the console, or nobody."""

    def say(self, text: str) -> None:
        """Show one line."""

    def task(self, description: str, total: float) -> AbstractContextManager[Callable[[float], None]]:
        """Show a bar of ``total`` steps. The context gives a function that advances it by a number of steps."""


class Silent:
    """Nobody listens."""

    def say(self, text: str) -> None:
        """Say nothing."""

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Callable[[float], None]]:
        """Show nothing."""
        yield lambda _: None


@dataclass
class Once:
    """Passes each remark on once: the stages of a sweep's points repeat themselves."""

    listener: Progress
    said: set[str] = field(default_factory=set)

    def say(self, text: str) -> None:
        """Show one line, if it is a new one."""
        if text not in self.said:
            self.said.add(text)
            self.listener.say(text)

    def task(self, description: str, total: float) -> AbstractContextManager[Callable[[float], None]]:
        """Show a bar."""
        return self.listener.task(description, total)


@contextmanager
def shared_task(progress: Progress, description: str, total: float, *, own: float) -> Iterator[Callable[[float], None]]:
    """A bar of what several ranks do together: the others are as far as this one, about.

    Args:
        progress: who listens.
        description: of the bar.
        total: steps of all ranks.
        own: those of this rank, which the function that the context gives is called with.
    """
    with progress.task(description, total) as advance:
        yield lambda done: advance(done * total / own)
