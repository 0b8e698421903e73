"""``llmprune apply-mask``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmprune.cli.console import Console
from llmprune.cli.options.common import (
    DEFAULT_RUN,
    DeviceOpt,
    DtypeOpt,
    ForceOpt,
    JsonOpt,
    QuietOpt,
    RemoteCodeOpt,
    RunOpt,
)

if TYPE_CHECKING:
    from llmprune.stages.masking import MaskingReport

EXAMPLE = "Example: llmprune apply-mask ./my-fine-tuned-model mask.safetensors --run tuned-run"


def apply_mask(
    model: Annotated[
        str,
        typer.Argument(
            help="A sibling of the model that the mask was made from: a checkpoint directory, a GGUF file or a Hub id."
        ),
    ],
    mask: Annotated[
        Path, typer.Argument(help="A mask file, such as a published mask.safetensors, or a weight-pruned checkpoint.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The new checkpoint. Default: in the run directory.", show_default=False),
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="Largest weight file: 5GB, 500MB.")] = "5GB",
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Compare the files bit by bit, and load the result."),
    ] = True,
    run: RunOpt = DEFAULT_RUN,
    device: DeviceOpt = "auto",
    dtype: DtypeOpt = "auto",
    force: ForceOpt = False,
    trust_remote_code: RemoteCodeOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Write a checkpoint of MODEL with the weights zero that are zero in MASK, all else bit for bit."""
    from llmprune.artifacts.files.sizes import parse_size
    from llmprune.models.compute import choose_compute
    from llmprune.stages.common.workspace import open_workspace
    from llmprune.stages.masking import MaskSettings
    from llmprune.stages.masking import apply_mask as run_stage

    console = Console(as_json=as_json, quiet=quiet)
    settings = MaskSettings(mask, out, parse_size(max_shard_size), verify, force)
    compute = choose_compute(device, dtype)
    workspace = open_workspace(run, model, compute=compute, progress=console, trust_remote_code=trust_remote_code)
    report = run_stage(workspace, settings)
    data = {"directory": str(report.directory), **report.record.model_dump(mode="json")}
    console.result(data, shown=lambda console: _show(console, report))


def _show(console: Console, report: MaskingReport) -> None:
    record = report.record
    masked = record.masked
    assert masked is not None
    share = masked.zeros / masked.numel if masked.numel else 0.0
    console.line(
        f"{masked.zeros:,} of the {masked.numel:,} weights in {len(masked.tensors)} tensors ({share:.2%}) are zero, "
        f"{masked.zeros_before:,} were before; dense kernels do not get faster by them."
    )
    if record.verification is None:
        console.line("Not verified (--no-verify).")
    else:
        check = record.verification
        console.line(
            f"Verified: all other bits are the source's; loaded again in {check.dtype}, logits differ from its blocks "
            f"run one by one by at most {check.largest_difference:.2g} on {check.tokens} tokens."
        )
    console.line(f"Written to {report.directory}")
