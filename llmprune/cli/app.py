"""The Typer app: every command in one place, and how errors become a message and an exit code."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from llmprune.cli.commands import (
    apply_mask,
    bench,
    calibrate,
    global_prune,
    heal,
    prune,
    push,
    quickstart,
    remove_blocks,
    remove_experts,
    report,
    sweep,
    verify_redundancy,
)
from llmprune.cli.console import complain, give_up_stdout, prepare_streams, remark
from llmprune.cli.failures import known_error
from llmprune.cli.interruption import Interruption, interruption_noted
from llmprune.cli.paths import require_unicode
from llmprune.cli.unchecked import unchecked_noted
from llmprune.errors import JoinError, LlmpruneError, LostRankError
from llmprune.escaping import for_terminal
from llmprune.ranks.failures import failed_on
from llmprune.ranks.launch import Launch, launched
from llmprune.version import __version__


class _Commands(TyperGroup):
    """All commands. What is said of words that none of them takes cannot command a terminal."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """As Typer does."""
        with _usage_errors_spelled():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """As Typer does."""
        with _usage_errors_spelled():
            return super().invoke(ctx)


@contextmanager
def _usage_errors_spelled() -> Iterator[None]:
    try:
        yield
    except typer.TyperException as error:
        error.message = for_terminal(error.message)
        raise


app = typer.Typer(
    cls=_Commands,
    name="llmprune",
    help="Make a Hugging Face decoder-only LLM smaller or sparser.",
    epilog="First time? Type: llmprune quickstart",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


_RENAMED = {("global-prune", "--targets"): "--parts", ("bench", "--seq-len"): "--ppl-seq-len"}


class _Command(TyperCommand):
    """A command that still takes the earlier names of its options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As Typer does; an option that was renamed is taken, and its new name is said."""
        return super().parse_args(ctx, [_by_new_name(str(self.name), word) for word in args])


def _by_new_name(command: str, word: str) -> str:
    """A word of a command line, with the new name of an option that was renamed."""
    option, equals, value = word.partition("=")
    if (new := _RENAMED.get((command, option))) is None:
        return word
    typer.echo(f"{option} is now {new}.", err=True)
    return f"{new}{equals}{value}"


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
        with interruption_noted() as interruption, unchecked_noted() as unchecked:
            try:
                require_unicode(kwargs.values())
                command(*args, **kwargs)
            except (typer.Exit, SystemExit):
                raise
            except BaseException as error:
                raise typer.Exit(_explained(error, interruption)) from None
            finally:
                if not kwargs.get("quiet") and (line := unchecked()) is not None:
                    remark(line)

    return wrapped


def _explained(error: BaseException, interruption: Interruption, *, who: str = "") -> int:
    """Say in one sentence what ended a command; returns its exit code. ``who``: which process, if one of several."""
    who = who or failed_on(error)
    if interruption.number is not None or isinstance(error, KeyboardInterrupt):
        complain(interruption.tell())
        return interruption.exit_code
    if os.environ.get("LLMPRUNE_DEBUG") == "1":
        raise error
    if isinstance(error, LostRankError) and not error.speaks:
        return error.exit_code
    known = known_error(error)
    if known is not None:
        complain(f"{'' if isinstance(known, JoinError | LostRankError) else who}{known}")
        return known.exit_code
    complain(f"{who}Unexpected {type(error).__name__}: {error} (LLMPRUNE_DEBUG=1 shows where)")
    return 1


def _add(command: Callable[..., None], examples: str) -> None:
    """Make a function a command, named after it, whose help ends with examples."""
    name = command.__name__.replace("_", "-")
    app.command(name, cls=_Command, epilog=f"Examples:\n{examples.strip()}")(_friendly(command))


_add(quickstart.quickstart, quickstart.EXAMPLES)
_add(prune.prune, prune.EXAMPLES)
_add(calibrate.calibrate, calibrate.EXAMPLES)
_add(verify_redundancy.verify_redundancy, verify_redundancy.EXAMPLES)
_add(remove_blocks.remove_blocks, remove_blocks.EXAMPLES)
_add(remove_experts.remove_experts, remove_experts.EXAMPLES)
_add(global_prune.global_prune, global_prune.EXAMPLES)
_add(heal.heal, heal.EXAMPLES)
_add(apply_mask.apply_mask, apply_mask.EXAMPLES)
_add(bench.bench, bench.EXAMPLES)
_add(sweep.sweep, sweep.EXAMPLES)
_add(report.report, report.EXAMPLES)
_add(push.push, push.EXAMPLES)


def main() -> None:
    """Run the command line on this process's arguments and streams, or serve the process that runs it."""
    prepare_streams()
    try:
        launch = launched()
    except LlmpruneError as error:
        complain(str(error))
        sys.exit(error.exit_code)
    if launch is None:
        _run()
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # what goes wrong between processes is ours to tell
    if launch.rank:
        sys.exit(_serve(launch))
    from llmprune.ranks.joining import leading

    try:
        with leading(launch):
            _run()
    except LlmpruneError as error:  # of joining: commands explain their own
        complain(str(error))
        sys.exit(error.exit_code)


def _serve(launch: Launch) -> int:
    """Do what rank 0 asks for, which tells what goes wrong as long as it is there."""
    from llmprune.ranks.joining import serve

    with interruption_noted() as interruption:
        try:
            return serve(launch)
        except BaseException as error:
            if interruption.number is not None or isinstance(error, KeyboardInterrupt):
                interruption.told = True  # by rank 0
                return interruption.exit_code
            return _explained(error, interruption, who=f"{launch}: ")


def _run() -> None:
    try:
        app()
    except OSError as error:  # of printing a help: commands explain their own
        give_up_stdout(error)
        sys.exit(1)
