"""How healing is shown: each block as it finishes, and what it brought."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmprune.cli.console import Console

if TYPE_CHECKING:
    from llmprune.artifacts.records.healing import BlockHealing, Healing
    from llmprune.stages.healing import HealingReport


def healing_teller(console: Console) -> Callable[[BlockHealing], None]:
    """Says a line for every block as it finishes."""
    return lambda block: console.say(str(block))


def show_healing(console: Console, report: HealingReport) -> None:
    """What was solved, what it brought, and how the result was verified."""
    healing = report.record.healing
    assert healing is not None
    show_healed(console, healing)
    if report.record.verification is None:
        console.line("Not verified (--no-verify).")
    else:
        check = report.record.verification
        console.line(
            f"Verified in {check.dtype}: logits differ by at most {check.largest_difference:.2g} on {check.tokens} "
            "tokens from those of the blocks run one by one."
        )
    console.line(f"Written to {report.directory}")


def show_healed(console: Console, healing: Healing) -> None:
    """How many layers were solved and kept, and the loss on the windows that were held back."""
    kept = [layer for layer in healing.layers if layer.kept]
    blocks = sum(any(layer.kept for layer in block.layers) for block in healing.blocks)
    console.line(
        f"Healed {len(kept)} of {len(healing.layers)} layers that were solved, in {blocks} blocks, "
        f"after {healing.seconds:.0f} s."
    )
    for remark in healing.remarks:
        console.line(f"Note: {remark}.")
    settings = healing.settings
    if healing.losses is not None:
        before, after = healing.losses
        console.line(f"Loss on the {settings.held_back} windows held back: {before:.4f} -> {after:.4f} nats/token.")
    solved_on = settings.windows - settings.held_back
    console.line(f"Solved on {solved_on} x {settings.seq_len} tokens of {settings.text}, {settings.dtype}.")
