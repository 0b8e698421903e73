"""A process that is killed in the middle of its work on files, and another one at work beside; no new interpreters."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from llmprune.errors import ArtifactError

# What changes a disk, as Python's audit events call it; of "open" only where it is for writing.
_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "open"}


def changes(action: Callable[[], object], folder: Path) -> int:
    """How many times an action, run in a process of its own, changes something in a folder."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # the parent's pool of threads did not come along
        seen = _watch(folder, die_at=-1)
        action()
        os.write(writer, str(seen[0]).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        return int(pipe.read())


def killed(action: Callable[[], object], folder: Path, *, at: int) -> bool:
    """Run an action in a process that is killed before its change number ``at`` in a folder; whether it got there."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        _watch(folder, die_at=at)
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def elsewhere(action: Callable[[], object]) -> list[str]:
    """What an action raises in another thread, for which the locks of this one are those of another process."""
    raised: list[str] = []

    def act() -> None:
        try:
            action()
        except ArtifactError as error:
            raised.append(str(error))

    other = threading.Thread(target=act)
    other.start()
    other.join()
    return raised


def _watch(folder: Path, *, die_at: int) -> list[int]:
    seen = [0]

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event not in _CHANGES or not str(arguments[0]).startswith(str(folder)):
            return
        if event == "open" and not int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):  # type: ignore[call-overload]
            return
        if seen[0] == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        seen[0] += 1

    sys.addaudithook(note)
    return seen
