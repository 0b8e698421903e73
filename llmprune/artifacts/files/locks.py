"""Folders that one process at a time works in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from llmprune.errors import ArtifactError

try:
    import fcntl
except ImportError:  # Windows: what takes a moment is not locked there
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_granted: set[Path] = set()


@contextmanager
def held(folder: Path, *, busy: str) -> Iterator[None]:
    """Hold a folder, made now if it is missing, for this process; a thread that holds it may hold it once more.

    The lock file stays: a process that still waits for one that was unlinked would hold another file than the next to
    come. It goes only together with its folder, while that is held, and ``filelock`` gives up a file without a name.

    Args:
        folder: the folder.
        busy: the message where another process holds it.

    Raises:
        ArtifactError: another process holds it.
        OSError: it cannot be made or locked.
    """
    folder = folder.resolve()
    if folder in _granted:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ArtifactError(busy) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def granted(folder: Path) -> Iterator[None]:
    """Take a folder for held by this process: another one of the same job holds it meanwhile."""
    folder = folder.resolve()
    _granted.add(folder)
    try:
        yield
    finally:
        _granted.discard(folder)


@contextmanager
def held_for_a_moment(folder: Path) -> Iterator[None]:
    """Wait for a folder, made now if it is missing, and hold it. It is the folder itself that is locked (``flock``).

    Raises:
        OSError: it cannot be made or opened.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            yield
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat()):
                yield
                return
        finally:
            os.close(descriptor)
