"""The operations on files that a command does: counted, and one of them turned into a kill or a failure.

The counting is done by a small library in C (interpose.c), which is compiled here and armed in a forked process.
"""

from __future__ import annotations

import ctypes
import mmap
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path

_NAME, _PATH, _ENTRIES = 24, 232, 20_000  # as in interpose.c; the last: of the log


class Counting(IntEnum):
    """Which operations count."""

    WRITES = 1
    ALL = 3


class Act(IntEnum):
    """What happens at the n-th operation, in the order of interpose.c."""

    NOTHING = 0
    KILL = 1
    TORN = 2  # half of a write is done, then the process is killed
    INTERRUPT = 3  # SIGINT
    TERMINATE = 4  # SIGTERM
    FAIL_ONCE = 5
    FAIL_ON = 6  # this one, and all that follow


@dataclass(frozen=True)
class Operation:
    """One operation: what the kernel was asked, and of which file under the folder."""

    name: str
    path: str


@dataclass(frozen=True)
class Plan:
    """What a process is to meet.

    Attributes:
        folder: operations under it count.
        counting: which of them.
        act: what happens at the n-th.
        at: n, from 0.
        error: the ``errno`` of a failing one.
    """

    folder: Path
    counting: Counting = Counting.WRITES
    act: Act = Act.NOTHING
    at: int = -1
    error: int = 0


def unavailable() -> str | None:
    """Why nothing can be interposed here; None: it can."""
    if shutil.which("cc") is None:
        return "no C compiler (cc) is installed"
    try:
        _library()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"interpose.c does not compile here ({error})"
    return None


@cache
def _library() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "interpose.so"
        source = Path(__file__).with_name("interpose.c")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", path, source], check=True, capture_output=True)
        return ctypes.CDLL(str(path))


class Log:
    """What was counted, in memory that parent and child share."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 16 + _ENTRIES * (_NAME + _PATH))
        self._memory[8:16] = _ENTRIES.to_bytes(8, "little")

    def arm(self, plan: Plan) -> None:
        """Begin to count in this process, which is a child that is to end soon.

        Raises:
            OSError: the kernel does not allow it.
        """
        shared = (ctypes.c_char * len(self._memory)).from_buffer(self._memory)
        folder = ctypes.c_char_p(f"{plan.folder}/".encode())
        place = ctypes.c_int64(plan.at)
        armed = _library().arm(folder, int(plan.counting), int(plan.act), place, plan.error, ctypes.byref(shared))
        if armed != 0:
            raise OSError("the kernel does not allow a seccomp filter")

    def clear(self) -> None:
        """Forget what was counted."""
        used = min(self.count, _ENTRIES)
        self._memory[0:8] = bytes(8)
        self._memory[16 : 16 + used * (_NAME + _PATH)] = bytes(used * (_NAME + _PATH))

    @property
    def count(self) -> int:
        """How many operations there were."""
        return int.from_bytes(self._memory[0:8], "little")

    def operations(self) -> Sequence[Operation]:
        """Those that there is room for, in their order."""
        found = []
        for index in range(min(self.count, _ENTRIES)):
            start = 16 + index * (_NAME + _PATH)
            name, path = self._memory[start : start + _NAME], self._memory[start + _NAME : start + _NAME + _PATH]
            found.append(Operation(_text(name), _text(path)))
        return found


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode(errors="replace")
