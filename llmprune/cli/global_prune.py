"""``llmprune global-prune``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmprune.cli.console import Console
from llmprune.cli.options import (
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
    from llmprune.algorithms.patterns import Pattern
    from llmprune.artifacts.sparsity_record import BlockRecord, MatrixRecord
    from llmprune.stages.global_prune import PruningReport

EXAMPLE = "Example: llmprune global-prune --sparsity 70%    or: llmprune global-prune --pattern 2:4 --dtype bfloat16"
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
RoundsOpt = Annotated[int, typer.Option(help="Most rounds of sparsellm; round 0 is sparsegpt, the best is kept.")]
DampingOpt = Annotated[float, typer.Option(help="Of Gram matrices, relative to their mean diagonal.")]
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


def global_prune(
    model: ModelArg = None,
    sparsity: SparsityOpt = None,
    pattern: PatternOpt = None,
    method: MethodOpt = MethodName.SPARSELLM,
    layers: LayersOpt = "all",
    targets: PartsOpt = "attention,ffn",
    exclude: ExcludeOpt = None,
    targets_from: TargetsFromOpt = TargetsName.DENSE,
    alpha: Annotated[float, typer.Option(help="Coefficient of the pre-activations.")] = 0.1,
    beta: Annotated[float, typer.Option(help="Coefficient of the FFN's output.")] = 1.0,
    gamma: Annotated[float, typer.Option(help="Coefficient of the activation.")] = 1.0,
    rounds: RoundsOpt = 4,
    damping: DampingOpt = 0.01,
    block_size: Annotated[int, typer.Option(help="Columns that sparsegpt prunes at a time.")] = 128,
    refit: RefitOpt = True,
    samples: SamplesOpt = None,
    seq_len: SeqLenOpt = None,
    calibration: CalibrationOpt = None,
    out: Annotated[
        Path | None, typer.Option(help="The new checkpoint. Default: in the run directory.", show_default=False)
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="Largest weight file: 5GB, 500MB.")] = "5GB",
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Load the result and compare.")] = True,
    run: RunOpt = DEFAULT_RUN,
    device: DeviceOpt = "auto",
    dtype: DtypeOpt = "auto",
    force: ForceOpt = False,
    trust_remote_code: RemoteCodeOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Write a checkpoint with zeros in its weights: SparseLLM, SparseGPT, Wanda or magnitude."""
    from llmprune.algorithms.sparsellm import Targets
    from llmprune.algorithms.subproblems import Coefficients
    from llmprune.artifacts.sizes import parse_size
    from llmprune.models.compute import choose_compute
    from llmprune.stages.global_prune import global_prune as run_stage
    from llmprune.stages.layer_selection import Selection, parse_parts
    from llmprune.stages.pruning_settings import Method, PruningSettings
    from llmprune.stages.workspace import open_workspace

    console = Console(as_json=as_json, quiet=quiet)
    settings = PruningSettings(
        pattern=_chosen_pattern(sparsity, pattern),
        method=Method(method.value),
        selection=Selection(layers, parse_parts(targets), tuple(exclude or ())),
        targets=Targets(targets_from.value),
        coefficients=Coefficients(alpha, beta, gamma),
        rounds=rounds,
        damping=damping,
        block_size=block_size,
        refit_steps=REFIT_STEPS if refit else 0,
        samples=samples,
        seq_len=seq_len,
        calibration=calibration,
        out=out,
        max_shard_bytes=parse_size(max_shard_size),
        verify=verify,
        force=force,
    )
    compute = choose_compute(device, dtype)
    workspace = open_workspace(run, model, compute=compute, progress=console, trust_remote_code=trust_remote_code)
    report = run_stage(workspace, settings, on_block=_block_teller(console))
    data = {"directory": str(report.directory), **report.record.model_dump(mode="json")}
    console.result(data, shown=lambda console: _show(console, report))


def _chosen_pattern(sparsity: str | None, pattern: str | None) -> Pattern:
    """What ``--sparsity`` or ``--pattern`` says."""
    from llmprune.algorithms.patterns import parse_pattern, parse_sparsity
    from llmprune.errors import TargetError

    if sparsity is not None and pattern is not None:
        raise TargetError("--sparsity and --pattern exclude each other; type one of them.")
    return parse_pattern(pattern) if pattern is not None else parse_sparsity(sparsity or "50%")


def _block_teller(console: Console) -> Callable[[BlockRecord], None]:
    """What says a line for every block as it finishes."""

    def tell(block: BlockRecord) -> None:
        worst = max(block.matrices, key=lambda matrix: matrix.error)
        said = f"largest error {worst.error:.4f} ({worst.kind})"
        if block.ffn is not None:
            first, kept = block.ffn.errors[0], block.ffn.errors[block.ffn.kept]
            said = f"FFN error {first:.4f} -> {kept:.4f} (round {block.ffn.kept} of {len(block.ffn.errors) - 1})"
        leaving = "" if block.output_error is None else f", output error {block.output_error:.4f}"
        zeros = block.zeros / block.numel if block.numel else 0.0
        console.say(f"block {block.block:3}: {said}{leaving}, {zeros:.1%} zeros ({block.seconds:.0f} s)")

    return tell


def _show(console: Console, report: PruningReport) -> None:
    sparsity = report.record.sparsity
    assert sparsity is not None
    settings = sparsity.settings
    kinds: dict[str, list[MatrixRecord]] = defaultdict(list)
    for block in sparsity.blocks:
        for matrix in block.matrices:
            kinds[matrix.kind].append(matrix)
    console.table(
        f"{settings.method} {settings.pattern}, {len(sparsity.blocks)} blocks",
        ("matrix", "weights", "zeros", "mean error", "largest"),
        [_kind_row(kind, matrices) for kind, matrices in kinds.items()],
    )
    for remark in sparsity.remarks:
        console.line(f"Note: {remark}.")
    share = sparsity.zeros / sparsity.numel if sparsity.numel else 0.0
    console.line(
        f"{sparsity.zeros:,} of {sparsity.numel:,} weights ({share:.2%}) are zero in the written files, of "
        f"{report.record.num_parameters:,} in all; dense kernels do not get faster by them."
    )
    console.line(
        f"Calibrated on {settings.windows} x {settings.seq_len} tokens of {settings.corpus}, {settings.dtype}."
    )
    console.line(f"Written to {report.directory} after {sparsity.seconds:.0f} s.")


def _kind_row(kind: str, matrices: list[MatrixRecord]) -> tuple[str, ...]:
    zeros, numel = sum(m.zeros for m in matrices), sum(m.rows * m.columns for m in matrices)
    errors = [m.error for m in matrices]
    return (
        kind,
        f"{numel:,}",
        f"{zeros / numel:.2%}",
        f"{sum(errors) / len(errors):.4f}",
        f"{max(errors):.4f}",
    )
