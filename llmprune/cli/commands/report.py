"""``llmprune report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmprune.cli.console import Console
from llmprune.cli.options.common import DEFAULT_RUN, DeviceOpt, DtypeOpt, JsonOpt, QuietOpt, RemoteCodeOpt, RunOpt

if TYPE_CHECKING:
    from llmprune.stages.reporting import Report

EXAMPLE = 'Example: llmprune report --prompt "The most important thing about the sea is"'

RunArg = Annotated[
    Path | None,
    typer.Argument(metavar="[RUN]", help="The run directory; goes before --run.", show_default=False),
]
OutOpt = Annotated[
    Path | None,
    typer.Option(help="The report's directory. Default: report/ in the run directory.", show_default=False),
]
PromptOpt = Annotated[
    list[str] | None,
    typer.Option(
        help="Let the dense and all pruned models continue this text first, and keep what they write. Can be repeated.",
        show_default=False,
    ),
]


def report(
    directory: RunArg = None,
    out: OutOpt = None,
    prompt: PromptOpt = None,
    run: RunOpt = DEFAULT_RUN,
    device: DeviceOpt = "auto",
    dtype: DtypeOpt = "auto",
    trust_remote_code: RemoteCodeOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Write one HTML page of everything that a run measured, with charts, tables and where each number is from."""
    from llmprune.artifacts.run import RunDirectory
    from llmprune.stages.reporting import report as run_stage

    console, place = Console(as_json=as_json, quiet=quiet), RunDirectory(directory or run)
    if prompt:
        from llmprune.models.compute import choose_compute
        from llmprune.stages.reporting import write_generations

        compute = choose_compute(device, dtype)
        write_generations(place, prompt, compute=compute, progress=console, trust_remote_code=trust_remote_code)
    written = run_stage(place, out=out, progress=console)
    data = {
        "page": str(written.page),
        "figures": [str(path) for path in written.figures],
        "missing": [{"what": one.what, "command": one.command} for one in written.missing],
    }
    console.result(data, shown=lambda console: _show(console, written))


def _show(console: Console, written: Report) -> None:
    for one in written.missing:
        console.line(f"{one.what} To have it in the report, type: {one.command}")
    console.line(f"Written to {written.page} ({written.page.stat().st_size / 1e3:,.0f} kB, needs nothing else).")
    if written.figures:
        console.line(f"The same {len(written.figures)} figures as PNG beside it.")
