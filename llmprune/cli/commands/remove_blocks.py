"""``llmprune remove-blocks``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmprune.cli.commands.push import PrivateOpt, PushToHubOpt, described, push_result, push_settings, show_push
from llmprune.cli.commands.verify_redundancy import TargetOpt, round_teller
from llmprune.cli.console import Console
from llmprune.cli.options.common import (
    DEFAULT_RUN,
    DeviceOpt,
    DtypeOpt,
    ForceOpt,
    JsonOpt,
    ModelArg,
    QuietOpt,
    RemoteCodeOpt,
    RunOpt,
)

if TYPE_CHECKING:
    from llmprune.stages.block_removal import RemovalReport
    from llmprune.stages.publishing import PushReport

EXAMPLE = "Example: llmprune remove-blocks --target 20%    or by hand: llmprune remove-blocks --blocks 3,7,12"


def remove_blocks(
    model: ModelArg = None,
    target: TargetOpt = "20%",
    blocks: Annotated[
        str | None,
        typer.Option(help="These blocks, by index, instead of a target: 3,7,12.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The new checkpoint. Default: in the run directory.", show_default=False),
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="Largest weight file: 5GB, 500MB.")] = "5GB",
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Load the result and compare it with the bypassed source."),
    ] = True,
    push_to_hub: PushToHubOpt = None,
    private: PrivateOpt = False,
    run: RunOpt = DEFAULT_RUN,
    device: DeviceOpt = "auto",
    dtype: DtypeOpt = "auto",
    force: ForceOpt = False,
    trust_remote_code: RemoteCodeOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Write a checkpoint without its most redundant blocks, and check that it computes what it should."""
    from llmprune.artifacts.files.sizes import parse_size
    from llmprune.models.compute import choose_compute
    from llmprune.stages.block_removal import RemovalSettings, parse_blocks
    from llmprune.stages.block_removal import remove_blocks as run_stage
    from llmprune.stages.common.workspace import open_workspace

    console = Console(as_json=as_json, quiet=quiet)
    settings = RemovalSettings(target, parse_blocks(blocks), out, parse_size(max_shard_size), verify, force)
    publishing = push_settings(push_to_hub, private=private)
    compute = choose_compute(device, dtype)
    workspace = open_workspace(
        run,
        model,
        compute=compute,
        progress=console,
        trust_remote_code=trust_remote_code,
        without=settings.blocks or (),
    )
    report = run_stage(workspace, settings, on_round=round_teller(console))
    pushed = push_result(
        console, publishing, report.directory, run=run, compute=compute, trust_remote_code=trust_remote_code
    )
    data = {"directory": str(report.directory), **report.record.model_dump(mode="json"), "pushed": described(pushed)}
    console.result(data, shown=lambda console: _show(console, report, pushed))


def _show(console: Console, report: RemovalReport, pushed: PushReport | None) -> None:
    record = report.record
    assert record.removal is not None
    removed = ", ".join(map(str, sorted(record.removal.removed)))
    console.line(f"Removed blocks {removed}: {record.source.num_blocks} -> {record.num_blocks} blocks.")
    console.line(
        f"{record.source.num_parameters:,} -> {record.num_parameters:,} parameters, "
        f"{report.source_bytes / 1e6:,.0f} -> {record.weight_bytes / 1e6:,.0f} MB."
    )
    if record.verification is None:
        console.line("Not verified (--no-verify).")
    else:
        check = record.verification
        console.line(
            f"Verified in {check.dtype}: logits differ from the bypassed source's by at most "
            f"{check.largest_difference:.2g} on {check.tokens} tokens; {check.generated_tokens} tokens generated alike "
            "with and without the KV cache."
        )
    console.line(f"Written to {report.directory}")
    show_push(console, pushed)
