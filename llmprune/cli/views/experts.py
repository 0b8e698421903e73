"""How a removal of experts is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmprune.cli.console import Console
from llmprune.cli.views.removal import generated

if TYPE_CHECKING:
    from llmprune.artifacts.records.expert_importance import BlockExperts
    from llmprune.stages.expert_removal import ExpertReport


def experts_teller(console: Console) -> Callable[[BlockExperts], None]:
    """Says a line for every block as its experts are measured."""
    return lambda block: console.say(str(block))


def show_experts(console: Console, report: ExpertReport) -> None:
    """What went, what it saves, and how it was verified."""
    record = report.record
    removal = record.experts
    assert removal is not None
    console.table(
        f"{removal.before} -> {removal.left} experts in each of {len(removal.removed)} blocks",
        ("block", "removed experts"),
        [(str(block), ", ".join(map(str, gone))) for block, gone in sorted(removal.removed.items())],
    )
    console.line(
        f"{record.source.num_parameters:,} -> {record.num_parameters:,} parameters, "
        f"{report.source_bytes / 1e6:,.0f} -> {record.weight_bytes / 1e6:,.0f} MB; as many experts compute a token as "
        "before."
    )
    if record.verification is None:
        console.line("Not verified (--no-verify).")
    else:
        check = record.verification
        console.line(
            f"Verified in {check.dtype}: logits differ from those of the source whose routers cannot choose these "
            f"experts by at most {check.largest_difference:.2g} on {check.tokens} tokens{generated(check)}."
        )
    console.line(f"Written to {report.directory}")
