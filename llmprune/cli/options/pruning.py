"""Options of ``llmprune global-prune``."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from llmprune.algorithms.weights.patterns import Pattern
    from llmprune.stages.weight_pruning import PruningSettings

REFIT_STEPS = 10


class MethodName(StrEnum):
    """What prunes."""

    SPARSELLM = "sparsellm"
    SPARSEGPT = "sparsegpt"
    WANDA = "wanda"
    MAGNITUDE = "magnitude"


class TargetsName(StrEnum):
    """Whose activations are to be reproduced."""

    DENSE = "dense"
    PRUNED = "pruned"


SparsityOpt = Annotated[str | None, typer.Option(help="Share of zeros: 0.7 or 70%. Default: 50%.", show_default=False)]
PatternOpt = Annotated[
    str | None,
    typer.Option(help="Instead: the first number counts ZEROS in every group of inputs: 2:4, 4:8, 3:4."),
]
MethodOpt = Annotated[MethodName, typer.Option(help="sparsellm solves each FFN as one problem on top of sparsegpt.")]
LayersOpt = Annotated[str, typer.Option(help="Blocks: all, first-half (the paper's protocol), 0-15, 0,3,8-11.")]
PartsOpt = Annotated[str, typer.Option("--targets", help="Parts of a block: attention,ffn or one of them.")]
ExcludeOpt = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Matrices that stay dense, by name: '*.o_proj'. Can be repeated."),
]
TargetsFromOpt = Annotated[
    TargetsName,
    typer.Option(help="Reproduce the dense model's activations, or (the papers' protocol) the pruned model's own."),
]
AlphaOpt = Annotated[float, typer.Option(help="Coefficient of the pre-activations.")]
BetaOpt = Annotated[float, typer.Option(help="Coefficient of the FFN's output.")]
GammaOpt = Annotated[float, typer.Option(help="Coefficient of the activation.")]
RoundsOpt = Annotated[int, typer.Option(help="Most rounds of sparsellm; round 0 is sparsegpt, the best is kept.")]
DampingOpt = Annotated[float, typer.Option(help="Of Gram matrices, relative to their mean diagonal.")]
BlockSizeOpt = Annotated[int, typer.Option(help="Columns that sparsegpt prunes at a time.")]
RefitOpt = Annotated[bool, typer.Option("--refit/--no-refit", help="Refit the kept weights by least squares.")]
SamplesOpt = Annotated[
    int | None, typer.Option(help="Use the first so many calibration windows. Default: all.", show_default=False)
]
SeqLenOpt = Annotated[
    int | None, typer.Option(help="Tokens in a calibration window. Default: as calibrated.", show_default=False)
]
CalibrationOpt = Annotated[
    Path | None, typer.Option(help="A calibration artifact. Default: the run's own.", show_default=False)
]
PrunedOutOpt = Annotated[
    Path | None, typer.Option(help="The new checkpoint. Default: in the run directory.", show_default=False)
]
VerifyOpt = Annotated[bool, typer.Option("--verify/--no-verify", help="Load the result and compare.")]
ShardSizeOpt = Annotated[str, typer.Option(help="Largest weight file: 5GB, 500MB.")]


def read_settings(typed: Mapping[str, Any]) -> PruningSettings:
    """The settings that options, by their names, ask for.

    Raises:
        TargetError: an option out of range, or one that cannot be read.
    """
    from llmprune.algorithms.feed_forward.sparsellm import Reference
    from llmprune.algorithms.feed_forward.subproblems import Coefficients
    from llmprune.artifacts.files.sizes import parse_size
    from llmprune.stages.weight_pruning import Method, PruningSettings, Selection, parse_parts

    same = ("rounds", "damping", "block_size", "samples", "seq_len", "calibration", "out", "verify", "force")
    return PruningSettings(
        pattern=_chosen_pattern(typed["sparsity"], typed["pattern"]),
        method=Method(typed["method"].value),
        selection=Selection(typed["layers"], parse_parts(typed["targets"]), tuple(typed["exclude"] or ())),
        reference=Reference(typed["targets_from"].value),
        coefficients=Coefficients(typed["alpha"], typed["beta"], typed["gamma"]),
        refit_steps=REFIT_STEPS if typed["refit"] else 0,
        max_shard_bytes=parse_size(typed["max_shard_size"]),
        **{name: typed[name] for name in same},
    )


def _chosen_pattern(sparsity: str | None, pattern: str | None) -> Pattern:
    """What ``--sparsity`` or ``--pattern`` says."""
    from llmprune.algorithms.weights.patterns import parse_pattern, parse_sparsity
    from llmprune.errors import TargetError

    if sparsity is not None and pattern is not None:
        raise TargetError("--sparsity and --pattern exclude each other; type one of them.")
    return parse_pattern(pattern) if pattern is not None else parse_sparsity(sparsity or "50%")
