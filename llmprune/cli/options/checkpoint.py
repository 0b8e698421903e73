"""Options of the commands that write a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmprune.cli.options.common import OUTPUT

OutOpt = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Where to write the new checkpoint.",
        show_default="in the run directory, named after what was done",
        rich_help_panel=OUTPUT,
    ),
]
ShardSizeOpt = Annotated[
    str, typer.Option(metavar="SIZE", help="Largest weight file: 5GB, 500MB, 2GiB.", rich_help_panel=OUTPUT)
]
VerifyOpt = Annotated[
    bool,
    typer.Option(
        "--verify/--no-verify",
        help="Load every written checkpoint again and compare it with its source.",
        rich_help_panel=OUTPUT,
    ),
]
