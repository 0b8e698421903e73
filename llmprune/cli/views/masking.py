"""How a mask that was laid on a model is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmprune.cli.console import Console

if TYPE_CHECKING:
    from llmprune.stages.masking import MaskingReport


def show_masking(console: Console, report: MaskingReport) -> None:
    """How many zeros there are now, and how the result was verified."""
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
