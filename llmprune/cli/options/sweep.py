"""Options of ``llmprune sweep`` alone: the grid, and what the best point is to be within."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llmprune.choices import Combine
from llmprune.cli.options.common import OUTPUT

if TYPE_CHECKING:
    from llmprune.stages.sweeping import Limits

LIMITS = "Best point"

TargetsOpt = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="How many blocks to remove: 10%,20%,30%, or numbers of them: 3,6. All need one search together.",
        show_default=False,
    ),
]
SparsitiesOpt = Annotated[
    str | None,
    typer.Option("--sparsity", metavar="LIST", help="Shares of zeros: 0.5,0.6,70%.", show_default=False),
]
PatternsOpt = Annotated[
    str | None,
    typer.Option(
        "--pattern", metavar="LIST", help="So many ZEROS in every group of inputs: 2:4,4:8.", show_default=False
    ),
]
CombineOpt = Annotated[
    Combine,
    typer.Option(
        help="Blocks and zeros at once. budget: as many weights are left as with that sparsity alone; "
        "grid: that sparsity in the blocks that are left; none: do not combine."
    ),
]
KeepOpt = Annotated[
    bool,
    typer.Option(
        "--keep-checkpoints/--discard-checkpoints",
        help="Keep every point's checkpoint, or delete it once it is measured. The commands to make it again stay.",
        rich_help_panel=OUTPUT,
    ),
]
MaxParamsOpt = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER",
        help="At most so many stored weights: 100M, 1.5B, or 80% of the dense model's.",
        show_default=False,
        rich_help_panel=LIMITS,
    ),
]
MaxEffectiveOpt = Annotated[
    str | None,
    typer.Option(
        "--max-effective-params",
        metavar="NUMBER",
        help="At most so many weights that are not zero.",
        show_default=False,
        rich_help_panel=LIMITS,
    ),
]
MaxLatencyOpt = Annotated[
    float | None,
    typer.Option(
        "--max-latency-ratio",
        help="At most so much of the dense model's time for a generated token: 0.8.",
        show_default=False,
        rich_help_panel=LIMITS,
    ),
]
MaxPplOpt = Annotated[
    float | None,
    typer.Option(
        "--max-ppl-ratio",
        help="At most so much of the dense model's perplexity: 1.5. Names the smallest and the fastest such point.",
        show_default=False,
        rich_help_panel=LIMITS,
    ),
]


def read_limits(
    params: str | None, effective_params: str | None, latency_ratio: float | None, ppl_ratio: float | None
) -> Limits:
    """What the best point is to be within.

    Raises:
        TargetError: a limit that cannot be read, or that nothing can keep.
    """
    from llmprune.stages.sweeping import Limits, parse_params

    return Limits(
        params=parse_params(params, "--max-params"),
        effective_params=parse_params(effective_params, "--max-effective-params"),
        latency_ratio=latency_ratio,
        ppl_ratio=ppl_ratio,
    )
