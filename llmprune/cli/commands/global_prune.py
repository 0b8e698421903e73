"""``llmprune global-prune``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from llmprune.cli.commands.push import PrivateOpt, PushToHubOpt, described, push_result, push_settings, show_push
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
from llmprune.cli.options.pruning import (
    AlphaOpt,
    BetaOpt,
    BlockSizeOpt,
    CalibrationOpt,
    DampingOpt,
    ExcludeOpt,
    GammaOpt,
    LayersOpt,
    MethodName,
    MethodOpt,
    PartsOpt,
    PatternOpt,
    PrunedOutOpt,
    RefitOpt,
    RoundsOpt,
    SamplesOpt,
    SeqLenOpt,
    ShardSizeOpt,
    SparsityOpt,
    TargetsFromOpt,
    TargetsName,
    VerifyOpt,
    read_settings,
)

if TYPE_CHECKING:
    from llmprune.artifacts.records.weight_sparsity import BlockRecord, MatrixRecord
    from llmprune.stages.publishing import PushReport
    from llmprune.stages.weight_pruning import PruningReport

EXAMPLE = "Example: llmprune global-prune --sparsity 70%    or: llmprune global-prune --pattern 2:4 --dtype bfloat16"


def global_prune(
    model: ModelArg = None,
    sparsity: SparsityOpt = None,
    pattern: PatternOpt = None,
    method: MethodOpt = MethodName.SPARSELLM,
    layers: LayersOpt = "all",
    targets: PartsOpt = "attention,ffn",
    exclude: ExcludeOpt = None,
    targets_from: TargetsFromOpt = TargetsName.DENSE,
    alpha: AlphaOpt = 0.1,
    beta: BetaOpt = 1.0,
    gamma: GammaOpt = 1.0,
    rounds: RoundsOpt = 4,
    damping: DampingOpt = 0.01,
    block_size: BlockSizeOpt = 128,
    refit: RefitOpt = True,
    samples: SamplesOpt = None,
    seq_len: SeqLenOpt = None,
    calibration: CalibrationOpt = None,
    out: PrunedOutOpt = None,
    max_shard_size: ShardSizeOpt = "5GB",
    verify: VerifyOpt = True,
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
    """Write a checkpoint with zeros in its weights: SparseLLM, SparseGPT, Wanda or magnitude."""
    typed = locals()  # every option by its name
    from llmprune.models.compute import choose_compute
    from llmprune.stages.common.workspace import open_workspace
    from llmprune.stages.weight_pruning import global_prune as run_stage

    console = Console(as_json=as_json, quiet=quiet)
    settings = read_settings(typed)
    publishing = push_settings(push_to_hub, private=private)
    compute = choose_compute(device, dtype)
    workspace = open_workspace(run, model, compute=compute, progress=console, trust_remote_code=trust_remote_code)
    report = run_stage(workspace, settings, on_block=_block_teller(console))
    pushed = push_result(
        console, publishing, report.directory, run=run, compute=compute, trust_remote_code=trust_remote_code
    )
    data = {"directory": str(report.directory), **report.record.model_dump(mode="json"), "pushed": described(pushed)}
    console.result(data, shown=lambda console: _show(console, report, pushed))


def _block_teller(console: Console) -> Callable[[BlockRecord], None]:
    """What says a line for every block as it finishes."""

    def tell(block: BlockRecord) -> None:
        if not block.matrices:
            console.say(f"block {block.block:3}: no matrix to prune ({block.seconds:.0f} s)")
            return
        worst = max(block.matrices, key=lambda matrix: matrix.error)
        said = f"largest error {worst.error:.4f} ({worst.kind})"
        if block.ffn is not None:
            first, kept = block.ffn.errors[0], block.ffn.errors[block.ffn.kept]
            said = f"FFN error {first:.4f} -> {kept:.4f} (round {block.ffn.kept} of {len(block.ffn.errors) - 1})"
        leaving = "" if block.output_error is None else f", output error {block.output_error:.4f}"
        zeros = block.zeros / block.numel
        console.say(f"block {block.block:3}: {said}{leaving}, {zeros:.1%} zeros ({block.seconds:.0f} s)")

    return tell


def _show(console: Console, report: PruningReport, pushed: PushReport | None) -> None:
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
    show_push(console, pushed)


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
