"""The command line in several processes, forked from this one: they have imported everything already."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

_DEADLINE = 120.0  # seconds until a test that hangs is ended


@dataclass(frozen=True)
class Ended:
    """A process that has ended: its exit code, what it printed and what it said."""

    exit_code: int
    stdout: str
    stderr: str


def run_ranks(
    size: int,
    words: Sequence[object],
    folder: Path,
    *,
    before: Callable[[int], None] = lambda _: None,
    environment: Callable[[int, int], dict[str, str]] | None = None,
) -> list[Ended]:
    """Type one command in ``size`` processes, as torchrun does.

    Args:
        size: how many.
        words: of the command.
        folder: for what they print.
        before: called in every process with its rank.
        environment: variables for rank and port; None: torchrun's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    variables = environment or (lambda rank, port: _torchrun(rank, size, port))
    pids = [_fork(rank, variables(rank, port), [*map(str, words)], folder, before) for rank in range(size)]
    codes = _wait(pids)
    return [
        Ended(code, (folder / f"{rank}.out").read_text(), (folder / f"{rank}.err").read_text())
        for rank, code in enumerate(codes)
    ]


def _torchrun(rank: int, size: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
    }


def _fork(rank: int, variables: dict[str, str], words: list[str], folder: Path, before: Callable[[int], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        os.environ.update(variables)
        torch.set_num_threads(1)
        sys.argv = ["llmprune", *words]
        before(rank)
        from llmprune.cli.app import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        os._exit(code)


def _wait(pids: list[int]) -> list[int]:
    """Exit codes, of killed processes the negative signal."""
    codes: dict[int, int] = {}
    deadline = time.monotonic() + _DEADLINE
    while len(codes) < len(pids):
        for pid in set(pids) - set(codes):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return [codes[pid] for pid in pids]
