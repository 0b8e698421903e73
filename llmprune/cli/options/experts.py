"""Options of ``remove-experts``."""

from __future__ import annotations

from typing import Annotated

import typer

from llmprune.choices import ExpertMetric

ExpertTargetOpt = Annotated[
    str,
    typer.Option(
        metavar="TARGET",
        help="Experts to remove from every block that has some: a share such as 25% or 0.25 (rounded up), or a number.",
    ),
]
ExpertsOpt = Annotated[
    list[str] | None,
    typer.Option(
        metavar="BLOCK:EXPERTS",
        help="Remove these experts of a block instead, such as 3:0,5. Repeat it for every block that has experts.",
        show_default="chosen by --metric",
    ),
]
ExpertMetricOpt = Annotated[
    ExpertMetric,
    typer.Option(
        help="What makes an expert important. reap: router weight times output norm, averaged over its tokens; "
        "frequency: how many tokens it is sent.",
    ),
]
