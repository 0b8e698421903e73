"""A command of llmprune in a forked process: started in no time, with whatever faults it is to meet."""

from __future__ import annotations

import os
import resource
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from benchmarks.faults.operations import Log, Plan

_SECONDS, _BYTES = 60, 8 << 30  # after which a command counts as one that hangs, or eats the memory


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code, or minus the signal that ended it.
        stdout: what it printed as a result.
        stderr: its remarks.
    """

    code: int
    stdout: str
    stderr: str

    @property
    def killed(self) -> bool:
        """Whether it did not end by itself."""
        return self.code < 0


def run(words: Sequence[str], folder: Path, *, said: Path, plan: Plan | None = None, log: Log | None = None) -> Ended:
    """Type ``llmprune WORDS`` in a folder.

    Args:
        words: the command.
        folder: where it is typed.
        said: a folder for what it prints, which does not count.
        plan: what it is to meet; None: nothing.
        log: where its operations are counted; needed with a plan.
    """

    def work() -> int:
        if plan is not None and log is not None:
            log.arm(plan)
        return _type(words)

    return fork(work, folder, said=said)


def fork(work: Callable[[], int], folder: Path, *, said: Path, seconds: int = _SECONDS) -> Ended:
    """Do something in a forked process, in a folder; it is killed after some time."""
    streams = [said / "stdout", said / "stderr"]
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _work(work, folder, streams, seconds)
    _, status = os.waitpid(child, 0)
    out, err = (stream.read_text(encoding="utf-8", errors="replace") for stream in streams)
    return Ended(os.waitstatus_to_exitcode(status), out, err)


def _work(work: Callable[[], int], folder: Path, streams: Sequence[Path], seconds: int) -> NoReturn:
    code, parents = 70, (sys.stdout, sys.stderr)  # which would close the descriptors with them
    try:
        for number, stream in enumerate(streams, start=1):
            os.dup2(os.open(stream, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
        sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.alarm(seconds)
        resource.setrlimit(resource.RLIMIT_DATA, (_BYTES, _BYTES))
        os.chdir(folder)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        del parents
        os._exit(code)


def _type(words: Sequence[str]) -> int:
    sys.argv = ["llmprune", *words]
    try:
        runpy.run_module("llmprune", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
