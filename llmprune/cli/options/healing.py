"""Options about healing: of which checkpoint, towards which model, in which blocks."""

from __future__ import annotations

from typing import Annotated

import typer

from llmprune.choices import Heal, Scope

PrunedArg = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT", help="A pruned checkpoint that llmprune wrote: its directory, or a Hub id (owner/name)."
    ),
]
TeacherOpt = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="The dense model that it was made from: a checkpoint directory, a GGUF file or a Hub id.",
        show_default="the run's own model",
    ),
]
ScopeOpt = Annotated[
    Scope,
    typer.Option(
        help="Heal the block before each hole, or every one from the first hole on. A checkpoint with zeros and no "
        "hole is healed throughout."
    ),
]
HealOpt = Annotated[
    Heal | None,
    typer.Option(
        help="Let the block before each hole (cut), or every one from the first hole on (all), make good what the "
        "removed blocks did: least squares on the calibration text.",
        show_default="all where a search with --heal chose the blocks, else none",
    ),
]
HealSearchOpt = Annotated[
    bool,
    typer.Option(
        "--heal",
        help="Measure each block's absence with the block before it healed for it, on half of the calibration windows.",
    ),
]
