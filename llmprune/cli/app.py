"""The Typer app: every command in one place, and how errors become a message and an exit code."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Annotated

import typer

from llmprune import __version__
from llmprune.cli import apply_mask, bench, calibrate, global_prune, quickstart, remove_blocks, verify_redundancy
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
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            complain("Interrupted. What was finished is kept: type the same command again to go on.")
            raise typer.Exit(130) from None
        except typer.Exit:
            raise
        except LlmpruneError as error:
            _raise_if_debugging(error)
            complain(str(error))
            raise typer.Exit(error.exit_code) from None
        except Exception as error:
            _raise_if_debugging(error)
            complain(f"Unexpected {type(error).__name__}: {error} (LLMPRUNE_DEBUG=1 shows where)")
            raise typer.Exit(1) from None

    return wrapped


def _raise_if_debugging(error: Exception) -> None:
    if os.environ.get("LLMPRUNE_DEBUG") == "1":
        raise error


app.command("quickstart", epilog=quickstart.EXAMPLE)(_friendly(quickstart.quickstart))
app.command("calibrate", epilog=calibrate.EXAMPLE)(_friendly(calibrate.calibrate))
app.command("verify-redundancy", epilog=verify_redundancy.EXAMPLE)(_friendly(verify_redundancy.verify_redundancy))
app.command("remove-blocks", epilog=remove_blocks.EXAMPLE)(_friendly(remove_blocks.remove_blocks))
app.command("global-prune", epilog=global_prune.EXAMPLE)(_friendly(global_prune.global_prune))
app.command("apply-mask", epilog=apply_mask.EXAMPLE)(_friendly(apply_mask.apply_mask))
app.command("bench", epilog=bench.EXAMPLE)(_friendly(bench.bench))


def main() -> None:
    """Run the command line."""
    app()
