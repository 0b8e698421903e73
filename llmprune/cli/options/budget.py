"""Options of ``llmprune prune`` alone: what the result is to fit into."""

from __future__ import annotations

from typing import Annotated

import typer

SizeOpt = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER",
        help="At most so many stored parameters: 70% of the dense model's, 100M, 1.5B.",
        show_default=False,
    ),
]
SpeedUpOpt = Annotated[
    float | None,
    typer.Option(
        help="Generate so many times as fast as the dense model, as the measured times of its parts tell: 1.3.",
        show_default=False,
    ),
]
