"""Where the process begins and ends: Ctrl-C and SIGTERM are noted before anything that takes long is imported."""

from __future__ import annotations

import atexit
import os
import sys

from llmprune.cli.interruption import interruption_noted


def run() -> None:
    """Run the command line, and end the process.

    Python would take every module apart first, for a second and a half where torch and transformers are among them.
    What is to happen at the end happens all the same.
    """
    try:
        main()
        code = 0
    except SystemExit as ended:
        if not isinstance(ended.code, int | None):
            raise  # a sentence, which Python prints
        code = ended.code or 0
    try:
        atexit._run_exitfuncs()
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed by whoever started the process
            stream.flush()
    except OSError:  # nobody reads any more: Python knows what to do
        sys.exit(code)
    os._exit(code)


def main() -> None:
    """Run the command line."""
    with interruption_noted(at_the_end=True) as interruption:
        try:
            from llmprune.cli import app

            app.main()
        except BaseException as error:
            finished = isinstance(error, SystemExit) and not error.code
            if interruption.number is None or interruption.told or finished:
                raise
            sys.stderr.write(f"Error: {interruption.tell()}\n")
            sys.exit(interruption.exit_code)
