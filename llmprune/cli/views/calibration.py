"""How a calibration is shown: what the dense model's blocks do, and its loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmprune.cli.console import Console

if TYPE_CHECKING:
    from llmprune.artifacts.activations import Calibration


def show_calibration(console: Console, calibration: Calibration) -> None:
    """A row a block, the dense loss, and where everything lies."""
    manifest = calibration.manifest
    rows = [
        [str(index), f"{block.influence:.4f}", f"{block.input_norm:.1f}", f"{block.update_norm:.1f}"]
        for index, block in enumerate(manifest.blocks)
    ]
    console.table("Blocks of the dense model", ["block", "influence", "input norm", "update norm"], rows)
    console.line(
        f"Dense loss {manifest.dense_loss:.4f} nats/token on {manifest.num_windows} x {manifest.seq_len} tokens of "
        f"{manifest.corpus.described}. Written to {calibration.directory}."
    )
