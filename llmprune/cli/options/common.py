"""Options of many commands: which model and run, where and in what to compute, how results are given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import typer

from llmprune.choices import DeviceMap, Dtype

T = TypeVar("T")
DEFAULT_RUN = Path("llmprune-run")
COMPUTE = "Compute"
OUTPUT = "Output"
MODEL = "A checkpoint directory, a GGUF file or a Hub id (owner/name@revision)."

ModelArg = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help=MODEL,
        show_default="the run's own model, else the demo model",
    ),
]
DeviceOpt = Annotated[
    str,
    typer.Option(metavar="DEVICE", help="cpu, cuda, cuda:1 or auto: CUDA if there is one.", rich_help_panel=COMPUTE),
]
DtypeOpt = Annotated[
    Dtype,
    typer.Option(
        help="Number format to compute in; auto: as an artifact that is continued, else as the model is stored.",
        rich_help_panel=COMPUTE,
    ),
]
MemoryBudgetOpt = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Most memory to use: 12GB, or 12GB,48GB on a GPU and on the host. No number depends on it.",
        show_default="what is free, less a margin",
        rich_help_panel=COMPUTE,
    ),
]
DeviceMapOpt = Annotated[
    DeviceMap,
    typer.Option(
        help="Where a whole model lies to write text: on the device, or (auto) spread over all GPUs and the host.",
        rich_help_panel=COMPUTE,
    ),
]
RemoteCodeOpt = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Let the model's own Python files run on this machine.", rich_help_panel=COMPUTE
    ),
]
CheckOpt = Annotated[
    bool,
    typer.Option(
        "--check/--no-check",
        help="See first that a checkpoint of llmprune is as it was written, by the digests in its llmprune.json.",
        rich_help_panel=COMPUTE,
    ),
]
RunOpt = Annotated[
    Path,
    typer.Option(
        "--run",
        metavar="FOLDER",
        envvar="LLMPRUNE_RUN",
        help="The run directory, which holds everything that the commands make.",
        rich_help_panel=OUTPUT,
    ),
]
ForceOpt = Annotated[
    bool, typer.Option("--force", help="Replace what was made with other settings.", rich_help_panel=OUTPUT)
]
JsonOpt = Annotated[
    bool,
    typer.Option("--json", help="Print the result as JSON on stdout, and nothing else there.", rich_help_panel=OUTPUT),
]
PlanOpt = Annotated[
    bool,
    typer.Option(
        "--plan",
        help="Show what the command is expected to take (memory, disk, bytes read and written, time), and stop.",
        rich_help_panel=OUTPUT,
    ),
]
QuietOpt = Annotated[
    bool, typer.Option("--quiet", "-q", help="Show no progress and no remarks.", rich_help_panel=OUTPUT)
]


def typed_or(typed: T | None, usual: T) -> T:
    """What was typed, or the usual where nothing was."""
    return usual if typed is None else typed
