"""What ``llmprune report`` is given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmprune.cli.options.common import OUTPUT

RunArg = Annotated[
    Path | None, typer.Argument(metavar="RUN", help="The run directory; wins over --run.", show_default=False)
]
PromptsOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt",
        metavar="TEXT",
        help="Let the dense and all pruned models continue this text first, and keep what they write. May be repeated.",
        show_default=False,
    ),
]
PageOpt = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FOLDER",
        help="Where to write the report.",
        show_default="report/ in the run directory",
        rich_help_panel=OUTPUT,
    ),
]
