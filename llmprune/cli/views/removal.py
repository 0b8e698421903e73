"""How a removal of blocks is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmprune.cli.console import Console
from llmprune.cli.views.healing import show_healed

if TYPE_CHECKING:
    from llmprune.artifacts.records.pruning import Verification
    from llmprune.stages.block_removal import RemovalReport


def show_removal(console: Console, report: RemovalReport) -> None:
    """What went, what it saves, and how it was verified."""
    record = report.record
    assert record.removal is not None
    removed = ", ".join(map(str, sorted(record.removal.removed)))
    console.line(f"Removed blocks {removed}: {record.source.num_blocks} -> {record.num_blocks} blocks.")
    console.line(
        f"{record.source.num_parameters:,} -> {record.num_parameters:,} parameters, "
        f"{report.source_bytes / 1e6:,.0f} -> {record.weight_bytes / 1e6:,.0f} MB."
    )
    if record.healing is not None:
        show_healed(console, record.healing)
    if record.verification is None:
        console.line("Not verified (--no-verify).")
    else:
        check = record.verification
        console.line(
            f"Verified in {check.dtype}: logits differ from the bypassed source's by at most "
            f"{check.largest_difference:.2g} on {check.tokens} tokens{generated(check)}."
        )
    console.line(f"Written to {report.directory}")


def generated(check: Verification) -> str:
    """What was seen of generation, where the written checkpoint was loaded whole."""
    if check.generated_tokens is None:
        return ", block by block"
    return f"; {check.generated_tokens} tokens generated alike with and without the KV cache"
