"""Options about zeros in weights: how many, by what method, in which matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llmprune.choices import SPARSITY, Method, Reference

if TYPE_CHECKING:
    from llmprune.algorithms.weights.patterns import Pattern

METHOD = "Method"

SparsityOpt = Annotated[
    str | None, typer.Option(metavar="SHARE", help="Share of zeros: 0.7 or 70%.", show_default=SPARSITY)
]
PatternOpt = Annotated[
    str | None,
    typer.Option(
        metavar="ZEROS:GROUP",
        help="Instead of a share: so many ZEROS in every group of inputs: 2:4, 4:8, 3:4.",
        show_default=False,
    ),
]
MethodOpt = Annotated[
    Method,
    typer.Option(help="What prunes. sparsellm solves each feed-forward network as one problem on top of sparsegpt."),
]
LayersOpt = Annotated[
    str,
    typer.Option(metavar="BLOCKS", help="Blocks to prune: all, first-half (the paper's protocol), 0-15, 0,3,8-11."),
]
PartsOpt = Annotated[
    str, typer.Option(metavar="LIST", help="Parts of a block to prune: any of attention, ffn, routers, between commas.")
]
ExcludeOpt = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB", help="Leave matrices of this name dense: '*.o_proj'. May be repeated.", show_default=False
    ),
]
ReferenceOpt = Annotated[
    Reference,
    typer.Option(
        "--targets-from",
        help="Reproduce the dense model's activations, or (the papers' protocol) the pruned model's own.",
        rich_help_panel=METHOD,
    ),
]
RefitOpt = Annotated[
    bool,
    typer.Option("--refit/--no-refit", help="Refit the weights that stay by least squares.", rich_help_panel=METHOD),
]
RoundsOpt = Annotated[
    int,
    typer.Option(
        help="At most so many rounds of sparsellm; the best of them and of sparsegpt's result is kept.",
        rich_help_panel=METHOD,
    ),
]
AlphaOpt = Annotated[float, typer.Option(help="sparsellm: penalty of the pre-activations.", rich_help_panel=METHOD)]
BetaOpt = Annotated[
    float, typer.Option(help="sparsellm: penalty of the feed-forward network's output.", rich_help_panel=METHOD)
]
GammaOpt = Annotated[float, typer.Option(help="sparsellm: penalty of the activation.", rich_help_panel=METHOD)]
DampingOpt = Annotated[
    float,
    typer.Option(help="Damping of Gram matrices, relative to their mean diagonal.", rich_help_panel=METHOD),
]
BlockSizeOpt = Annotated[
    int, typer.Option(help="sparsegpt: columns that are pruned at a time.", rich_help_panel=METHOD)
]


def read_pattern(sparsity: str | None, pattern: str | None) -> Pattern:
    """What ``--sparsity`` or ``--pattern`` says.

    Raises:
        TargetError: both were typed, or one that cannot be read.
    """
    from llmprune.algorithms.weights.patterns import parse_pattern, parse_sparsity
    from llmprune.errors import TargetError

    if sparsity is not None and pattern is not None:
        raise TargetError("--sparsity and --pattern exclude each other; type one of them.")
    return parse_pattern(pattern) if pattern is not None else parse_sparsity(sparsity or SPARSITY)
