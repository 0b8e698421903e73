"""A command in a process of its own, and what it took."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

_COUNTS = ("rchar", "wchar", "read_bytes", "VmHWM")


@dataclass(frozen=True)
class Measured:
    """What one process took.

    Attributes:
        seconds: wall time.
        peak_bytes: most resident memory.
        bytes_read: from files and others, whether or not the system had them in memory.
        bytes_written: likewise.
        from_disk: bytes that came from a disk.
        output: what it printed.
    """

    seconds: float
    peak_bytes: int
    bytes_read: int
    bytes_written: int
    from_disk: int
    output: str


def run_measured(words: Sequence[object], environment: Mapping[str, str] | None = None) -> Measured:
    """Run a command, and watch it until it ends, as Linux's /proc tells of it.

    Args:
        words: the command line.
        environment: all variables; None: those of this process.

    Raises:
        SystemExit: it failed; its output is shown.
    """
    began, seen = time.monotonic(), dict.fromkeys(_COUNTS, 0)
    with TemporaryFile("w+", encoding="utf-8") as output, TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen([*map(str, words)], stdout=output, stderr=errors, env=environment)
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            seen |= _counted(Path(f"/proc/{process.pid}"), _COUNTS)
            time.sleep(0.05)
        seconds = time.monotonic() - began
        seen |= _counted(Path(f"/proc/{process.pid}"), _COUNTS)  # it has ended, and is still counted until waited for
        code = process.wait()
        output.seek(0)
        errors.seek(0)
        said, complained = output.read(), errors.read()
    if code:
        raise SystemExit(f"{' '.join(map(str, words))} ended with {code}:\n{said}{complained}")
    return Measured(seconds, seen["VmHWM"] * 1024, seen["rchar"], seen["wchar"], seen["read_bytes"], said)


def _counted(process: Path, names: Container[str]) -> dict[str, int]:
    """What the kernel counts of a process; of one that has ended no memory."""
    with suppress(ProcessLookupError):
        lines = (process / "io").read_text().splitlines() + (process / "status").read_text().splitlines()
        counts = (line.split(":", 1) for line in lines)
        return {name: int(value.split()[0]) for name, value in counts if name in names}
    return {}
