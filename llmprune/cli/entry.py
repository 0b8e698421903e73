"""Where the process begins: Ctrl-C and SIGTERM are noted before anything that takes long is imported."""

from __future__ import annotations

import sys

from llmprune.cli.interruption import interruption_noted


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
