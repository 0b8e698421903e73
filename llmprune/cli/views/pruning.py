"""How weight pruning is shown: each block as it finishes, and the errors by kind of matrix."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llmprune.cli.console import Console

if TYPE_CHECKING:
    from llmprune.artifacts.records.weight_sparsity import BlockRecord, MatrixRecord
    from llmprune.stages.weight_pruning import PruningReport


def block_teller(console: Console) -> Callable[[BlockRecord], None]:
    """Says a line for every block as it finishes."""
    return lambda block: console.say(str(block))


def show_pruning(console: Console, report: PruningReport) -> None:
    """Zeros and errors by kind of matrix, and what they do and do not buy."""
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
    console.line(f"Calibrated on {settings.windows} x {settings.seq_len} tokens of {settings.text}, {settings.dtype}.")
    console.line(f"Written to {report.directory} after {sparsity.seconds:.0f} s.")


def _kind_row(kind: str, matrices: Sequence[MatrixRecord]) -> tuple[str, ...]:
    zeros, numel = sum(m.zeros for m in matrices), sum(m.numel for m in matrices)
    errors = [m.error for m in matrices]
    return (
        kind,
        f"{numel:,}",
        f"{zeros / numel:.2%}",
        f"{sum(errors) / len(errors):.4f}",
        f"{max(errors):.4f}",
    )
