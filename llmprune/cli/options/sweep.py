"""Options of ``llmprune sweep``; what concerns measuring is ``bench``'s."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from llmprune.cli.commands.verify_redundancy import Metric


class CombineName(StrEnum):
    """How blocks and zeros go together."""

    BUDGET = "budget"
    GRID = "grid"
    NONE = "none"


TargetsOpt = Annotated[
    str | None,
    typer.Option(
        "--targets",
        metavar="LIST",
        help="Blocks to remove: 10%,20%,30%, or numbers of them: 3,6. Needs one search in all.",
        show_default=False,
    ),
]
SparsitiesOpt = Annotated[
    str | None,
    typer.Option("--sparsity", metavar="LIST", help="Shares of zeros in weights: 0.5,0.6,70%.", show_default=False),
]
PatternsOpt = Annotated[
    str | None,
    typer.Option("--pattern", metavar="LIST", help="ZEROS in every group of inputs: 2:4,4:8.", show_default=False),
]
CombineOpt = Annotated[
    CombineName,
    typer.Option(
        help="Blocks and zeros at once. budget: as many weights are left as with that sparsity alone; "
        "grid: that sparsity in whatever blocks are left; none."
    ),
]
RankingOpt = Annotated[
    Metric | None,
    typer.Option(help="What ranks blocks. Default: as in the run's importance.json, else sleb.", show_default=False),
]
SourceOpt = Annotated[
    str | None,
    typer.Option(help="Calibration text, as calibrate's. Default: the run's own, else auto.", show_default=False),
]
SamplesOpt = Annotated[
    int | None,
    typer.Option(help="Calibration windows. Default: the run's calibration, else 128.", show_default=False),
]
SeqLenOpt = Annotated[
    int | None,
    typer.Option(
        help="Tokens in a calibration window. Default: the run's calibration, else 2048, or all of a shorter model's.",
        show_default=False,
    ),
]
PplSeqLenOpt = Annotated[
    int | None,
    typer.Option(
        "--ppl-seq-len",
        help="Tokens in a perplexity window. Default: 2048, or all of a shorter model's.",
        show_default=False,
    ),
]
VerifyOpt = Annotated[
    bool, typer.Option("--verify/--no-verify", help="Load every checkpoint and compare it with its source.")
]
KeepOpt = Annotated[
    bool,
    typer.Option(
        "--keep-checkpoints/--discard-checkpoints",
        help="Keep every point's checkpoint, or delete it once it was measured; commands to make it again stay.",
    ),
]
MaxParamsOpt = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER",
        help="Name the best point of at most so many stored weights: 100M, 1.5B, or 80% of the dense model's.",
        show_default=False,
    ),
]
MaxEffectiveOpt = Annotated[
    str | None,
    typer.Option(
        "--max-effective-params", metavar="NUMBER", help="The same of weights that are not zero.", show_default=False
    ),
]
MaxLatencyOpt = Annotated[
    float | None,
    typer.Option(
        "--max-latency-ratio",
        help="Of at most so much of the dense model's time for a generated token: 0.8.",
        show_default=False,
    ),
]
MaxPplOpt = Annotated[
    float | None,
    typer.Option(
        "--max-ppl-ratio",
        help="Name the smallest and the fastest point of at most so much of the dense model's perplexity: 1.5.",
        show_default=False,
    ),
]
