"""What was made of files, for as long as these are as they were: a command parses a config or a header once.

A file that changed a moment ago may change again without a trace in its times. So nothing of such a file is remembered.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")
_SETTLED = 2.0  # seconds since the last change; no file system has coarser times


class Remembered(Generic[T]):
    """What was made of files, by path.

    Args:
        most: files of which something is remembered; the one that was asked for longest ago makes room.
    """

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._known: OrderedDict[Hashable, tuple[Hashable, T]] = OrderedDict()
        self._lock = Lock()

    def get(self, path: Path, make: Callable[[], T], *, by: Hashable = None) -> T:
        """What was made of the file at ``path`` before, or what ``make`` gives now.

        It is handed to everybody who asks, and nobody may change it. What ``make`` raises is not remembered.

        Args:
            path: of the file; without one, ``make`` says what is wrong.
            make: reads the file.
            by: what else it depends on.
        """
        before = _state(path)
        known = self.peek(path, by=by)
        if known is not None:
            return known
        made = make()
        with self._lock:
            if before is not None and _is_settled(path) and _state(path) == before:
                self._known[path, by] = before, made
                if len(self._known) > self._most:
                    self._known.popitem(last=False)
        return made

    def peek(self, path: Path, *, by: Hashable = None) -> T | None:
        """What is remembered of the file as it is now; None: nothing."""
        now = _state(path)
        with self._lock:
            known = self._known.get((path, by))
            if known is None or known[0] != now:
                return None
            self._known.move_to_end((path, by))
            return known[1]


def _state(path: Path) -> Hashable:
    """What changes when a file does; None: there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _is_settled(path: Path) -> bool:
    found = path.stat()
    return time.time() - max(found.st_mtime, found.st_ctime) > _SETTLED
