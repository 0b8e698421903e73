"""The command line in a process of its own that is forked from this one, which has imported torch already.

``subprocess`` starts it, so pipes, signals and limits are as they are for any other process; only the five seconds that
the imports take are saved. What a start itself does is tried with real ones, in tests/cli/test_interruptions.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch


def start_forked(
    words: Sequence[object],
    *,
    environment: Mapping[str, str],
    encoding: str = "utf-8",
    before: Callable[[], None] = lambda: None,
    without: Sequence[int] = (),
    **options: Any,
) -> subprocess.Popen[Any]:
    """Start a command line; what ``subprocess.Popen`` takes beside it are ``options``.

    Args:
        words: of the command line, without the program.
        environment: all of it.
        encoding: of its streams.
        before: called in the process before anything else.
        without: numbers of streams that it does not have, 1 for stdout.
        options: streams, ``text``.
    """

    def run() -> None:
        for number in without:
            os.close(number)
        os.closerange(3, 4096)  # the pipe with which Popen waits for the end of this function is among them
        _be_llmprune([*map(str, words)], environment, encoding, before)

    return subprocess.Popen(["llmprune"], preexec_fn=run, **options)


def run_forked(words: Sequence[object], **options: Any) -> subprocess.CompletedProcess[Any]:
    """The same to its end, see ``start_forked``."""
    with start_forked(words, **options) as process:
        out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(["llmprune", *map(str, words)], process.returncode, out, err)


def _be_llmprune(words: list[str], environment: Mapping[str, str], encoding: str, before: Callable[[], None]) -> None:
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # as Python does when it starts
            signal.signal(ignored, signal.SIG_IGN)
        os.environ.clear()
        os.environ.update(environment)
        sys.stdin = os.fdopen(0, encoding=encoding) if _is_open(0) else None  # type: ignore[assignment]
        sys.stdout, sys.stderr = (_stream(number, encoding) for number in (1, 2))
        sys.argv = ["llmprune", *words]
        torch.set_num_threads(1)
        before()
        from llmprune.cli.app import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):
                code = 120  # as Python ends where its streams cannot be flushed
        os._exit(code)


def _stream(number: int, encoding: str) -> Any:
    if not _is_open(number):
        return None
    return open(number, "w", encoding=encoding, errors="strict", closefd=False, buffering=1 if number == 2 else -1)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
