"""``llmprune calibrate``."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from llmprune.cli.console import Console
from llmprune.cli.options.common import (
    DEFAULT_RUN,
    Bos,
    BosOpt,
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
    from llmprune.artifacts.activations import Calibration

EXAMPLE = "Example: llmprune calibrate ./my-model --source wikitext2 --samples 128 --seq-len 2048"


class Sampling(StrEnum):
    """How calibration windows are drawn."""

    WINDOWS = "windows"
    ROWS = "rows"


class Cache(StrEnum):
    """Which hidden states are kept."""

    FIRST = "first"
    ALL = "all"


SourceOpt = Annotated[
    str,
    typer.Option(
        help="wikitext2, c4, ptb, python-docs, self, a Hub data set (owner/name:config:split:column), a local "
        ".txt, .jsonl or .parquet file, or wikitext2:FILE for a local copy; auto: wikitext2, else python-docs."
    ),
]
SamplesOpt = Annotated[int, typer.Option(help="Calibration windows.")]
SeqLenOpt = Annotated[
    int | None,
    typer.Option(help="Tokens in a window. Default: 2048, or all of a shorter model's.", show_default=False),
]
SeedOpt = Annotated[int, typer.Option(help="Of the drawing.")]
SamplingOpt = Annotated[
    Sampling, typer.Option(help="windows at random positions, or rows as in SLEB's published code.")
]
CacheOpt = Annotated[Cache, typer.Option(help="Keep the hidden states entering the first block, or all blocks.")]


def calibrate(
    model: ModelArg = None,
    source: SourceOpt = "auto",
    samples: SamplesOpt = 128,
    seq_len: SeqLenOpt = None,
    seed: SeedOpt = 0,
    sampling: SamplingOpt = Sampling.WINDOWS,
    bos: BosOpt = Bos.AUTO,
    cache: CacheOpt = Cache.FIRST,
    run: RunOpt = DEFAULT_RUN,
    device: DeviceOpt = "auto",
    dtype: DtypeOpt = "auto",
    force: ForceOpt = False,
    trust_remote_code: RemoteCodeOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Run the dense model once over calibration text and keep what the other commands need."""
    from llmprune.models.compute import choose_compute
    from llmprune.stages.calibration import CalibrationSettings
    from llmprune.stages.calibration import calibrate as run_stage
    from llmprune.stages.common.workspace import open_workspace

    console = Console(as_json=as_json, quiet=quiet)
    settings = CalibrationSettings(source, samples, seq_len, seed, sampling.value, bos.value, cache.value)
    workspace = open_workspace(
        run,
        model,
        compute=choose_compute(device, dtype),
        progress=console,
        trust_remote_code=trust_remote_code,
    )
    calibration = run_stage(workspace, settings, force=force)
    console.result(calibration.manifest.model_dump(mode="json"), shown=lambda console: _show(console, calibration))


def _show(console: Console, calibration: Calibration) -> None:
    manifest = calibration.manifest
    rows = [
        [str(index), f"{block.influence:.4f}", f"{block.input_norm:.1f}", f"{block.update_norm:.1f}"]
        for index, block in enumerate(manifest.blocks)
    ]
    console.table("Blocks of the dense model", ["block", "influence", "input norm", "update norm"], rows)
    console.line(
        f"Dense loss {manifest.dense_loss:.4f} nats/token on {manifest.num_windows} x {manifest.seq_len} tokens of "
        f"{manifest.corpus.name}. Written to {calibration.directory}."
    )
