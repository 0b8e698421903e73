"""Options about which blocks to remove, and how redundant ones are found."""

from __future__ import annotations

from typing import Annotated

import typer

from llmprune.choices import Metric, Search

_METRIC = "What makes a block redundant. sleb: its loss, measured anew after every removal; others: one-shot scores."

TargetOpt = Annotated[
    str,
    typer.Option(
        metavar="BLOCKS",
        help="Blocks to remove: a share (20% or 0.2, rounded up to whole blocks) or a number (6).",
    ),
]
BlocksOpt = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="Remove these blocks instead, by index: 3,7,12.", show_default=False),
]
SearchOpt = Annotated[
    Search,
    typer.Option(help="eliminate: drop hopeless blocks early; exhaustive: measure every block on every window."),
]
MetricOpt = Annotated[Metric, typer.Option(help=_METRIC)]
RunMetricOpt = Annotated[
    Metric | None,
    typer.Option("--metric", help=_METRIC, show_default=f"the run's ranking of blocks, else {Metric.SLEB}"),
]
ProtectFirstOpt = Annotated[int, typer.Option(help="Number of blocks at the start that stay.")]
ProtectLastOpt = Annotated[int, typer.Option(help="Number of blocks at the end that stay.")]
ErrorRateOpt = Annotated[
    float,
    typer.Option(help="Chance, in one round, of dropping the block that exhaustive would remove (0 to 0.5)."),
]
SwapOpt = Annotated[
    int,
    typer.Option(
        metavar="NUMBER",
        help="Behind the search, take removed blocks back in turn, remove others, and keep up to so many such swaps.",
    ),
]
ChunkWindowsOpt = Annotated[
    int | None,
    typer.Option(help="Windows that go through the model together.", show_default="as many as a memory budget allows"),
]
BatchSizeOpt = Annotated[
    int | None,
    typer.Option(help="Windows in one forward pass of a block.", show_default="as many as keep the device busy"),
]
