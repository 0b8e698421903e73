"""The Typer app: every command in one place, and how errors become a message and an exit code."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType
from typing import Annotated

import typer

from llmprune import __version__
from llmprune.cli.commands import (
    apply_mask,
    bench,
    calibrate,
    global_prune,
    push,
    quickstart,
    remove_blocks,
    report,
    sweep,
    verify_redundancy,
)
from llmprune.cli.console import complain
from llmprune.errors import LlmpruneError

app = typer.Typer(
    name="llmprune",
    help="Make a Hugging Face decoder-only LLM smaller or sparser.",
    epilog="First time? Type: llmprune quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"llmprune {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Make a Hugging Face decoder-only LLM smaller or sparser."""


def _friendly(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command end in one clear sentence instead of a traceback."""

    @functools.wraps(command)
    def wrapped(*args: object, **kwargs: object) -> None:
        with _interruptions_noted() as interrupted:
            try:
                command(*args, **kwargs)
            except typer.Exit:
                raise
            except (Exception, KeyboardInterrupt) as error:
                raise typer.Exit(_explained(error, interrupted=interrupted())) from None

    return wrapped


def _explained(error: Exception | KeyboardInterrupt, *, interrupted: bool) -> int:
    """Say in one sentence what ended a command; returns its exit code."""
    if interrupted or isinstance(error, KeyboardInterrupt):
        complain("Interrupted. What was finished is kept: type the same command again to go on.")
        return 130
    if os.environ.get("LLMPRUNE_DEBUG") == "1":
        raise error
    if isinstance(error, LlmpruneError):
        complain(str(error))
        return error.exit_code
    complain(f"Unexpected {type(error).__name__}: {error} (LLMPRUNE_DEBUG=1 shows where)")
    return 1


@contextmanager
def _interruptions_noted() -> Iterator[Callable[[], bool]]:
    """Know of Ctrl-C even where it is met inside another library, which may make any error of it."""
    seen = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen = True
        signal.default_int_handler(number, frame)

    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler and current_thread() is main_thread()
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield lambda: seen
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


app.command("quickstart", epilog=quickstart.EXAMPLE)(_friendly(quickstart.quickstart))
app.command("calibrate", epilog=calibrate.EXAMPLE)(_friendly(calibrate.calibrate))
app.command("verify-redundancy", epilog=verify_redundancy.EXAMPLE)(_friendly(verify_redundancy.verify_redundancy))
app.command("remove-blocks", epilog=remove_blocks.EXAMPLE)(_friendly(remove_blocks.remove_blocks))
app.command("global-prune", epilog=global_prune.EXAMPLE)(_friendly(global_prune.global_prune))
app.command("apply-mask", epilog=apply_mask.EXAMPLE)(_friendly(apply_mask.apply_mask))
app.command("bench", epilog=bench.EXAMPLE)(_friendly(bench.bench))
app.command("sweep", epilog=sweep.EXAMPLE)(_friendly(sweep.sweep))
app.command("report", epilog=report.EXAMPLE)(_friendly(report.report))
app.command("push", epilog=push.EXAMPLE)(_friendly(push.push))


def main() -> None:
    """Run the command line."""
    app()
