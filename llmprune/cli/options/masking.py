"""What ``llmprune apply-mask`` is given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SiblingArg = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A sibling of the model that the mask was made from: a checkpoint directory, a GGUF file or a Hub id.",
    ),
]
MaskArg = Annotated[
    Path,
    typer.Argument(
        metavar="MASK", help="A mask file, such as a published mask.safetensors, or a weight-pruned checkpoint."
    ),
]
