"""How a search for redundant blocks is shown: each round as it is decided, and the ranking."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmprune.cli.console import Console

if TYPE_CHECKING:
    from llmprune.artifacts.records.importance import Importance, RoundRecord, SwapRecord


def round_teller(console: Console) -> Callable[[RoundRecord], None]:
    """Says a line for every round as it is decided."""
    return lambda decided: console.say(str(decided))


def swap_teller(console: Console) -> Callable[[SwapRecord], None]:
    """Says a line for every swap as it was tried."""
    return lambda tried: console.say(str(tried))


def show_importance(console: Console, importance: Importance) -> None:
    """The blocks in the order in which they go."""
    if importance.scores is not None:
        rows = [[str(block), f"{importance.scores[block]:.4f}"] for block in importance.order]
        console.table(f"Least important by {importance.settings.metric}", ["block", "score"], rows)
        return
    rows = [
        [
            str(number),
            str(decided.removed),
            f"{decided.loss:.4f}",
            f"{decided.loss - importance.dense_loss:+.4f}",
            str(sum(not candidate.complete for candidate in decided.candidates)),
            f"{decided.block_forwards / decided.naive_block_forwards:.0%}",
        ]
        for number, decided in enumerate(importance.rounds, start=1)
    ]
    columns = ["round", "block", "loss", "above dense", "dropped early", "of naive forwards"]
    console.table(f"Removal order (dense loss {importance.dense_loss:.4f} nats/token)", columns, rows)
    if importance.refinement is not None:
        refined = importance.refinement
        kept = sum(swap.kept for swap in refined.swaps)
        blocks = ", ".join(map(str, refined.removed))
        console.line(
            f"Swaps: {kept} of {len(refined.swaps)} kept; of {len(refined.removed)} blocks go {blocks}, loss "
            f"{refined.loss:.4f}."
        )
    console.line(
        f"{importance.block_forwards} block forwards; skipping each block in a full forward pass takes "
        f"{importance.naive_block_forwards}."
    )
