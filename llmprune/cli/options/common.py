"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

ModelArg = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A checkpoint directory, a GGUF file or a Hub id (owner/name@revision). "
        "Default: the run's own model, else the demo model.",
        show_default=False,
    ),
]
RunOpt = Annotated[
    Path, typer.Option("--run", envvar="LLMPRUNE_RUN", help="The run directory, where all artifacts lie.")
]
DeviceOpt = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
DtypeOpt = Annotated[str, typer.Option(help="auto (as stored), float32, bfloat16 or float16.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")]
QuietOpt = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no remarks.")]
ForceOpt = Annotated[bool, typer.Option("--force", help="Replace what was made with other settings.")]
RemoteCodeOpt = Annotated[bool, typer.Option("--trust-remote-code", help="Let the checkpoint's own Python files run.")]

DEFAULT_RUN = Path("llmprune-run")


class Bos(StrEnum):
    """Whether windows start with the BOS token."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


BosOpt = Annotated[Bos, typer.Option(help="Start windows with BOS; auto: as the tokenizer does by itself.")]
