"""A pruned checkpoint on disk, as functions with ``out`` return it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmprune.artifacts.files.sizes import format_size
from llmprune.artifacts.records.pruning import RECORD_NAME, PruningRecord


@dataclass(frozen=True, repr=False)
class PrunedCheckpoint:
    """A checkpoint that llmprune wrote: ``AutoModelForCausalLM.from_pretrained(checkpoint.directory)`` loads it.

    Attributes:
        directory: where it is.
        record: its ``llmprune.json``: what was done, from what, and what verification saw.
    """

    directory: Path
    record: PruningRecord

    def __repr__(self) -> str:
        record = self.record
        lines = [
            f"{self.directory}, from {record.source.name}",
            f"{record.source.num_blocks} -> {record.num_blocks} blocks, {record.source.num_parameters:,} -> "
            f"{record.num_parameters:,} parameters, {format_size(record.weight_bytes)}",
        ]
        if record.removal is not None:
            lines.append(f"without blocks {', '.join(map(str, sorted(record.removal.removed)))}")
        if record.experts is not None:
            lines.append(f"{record.experts.left} of {record.experts.before} experts in each block that has experts")
        if record.sparsity is not None:
            share = record.sparsity.zeros / record.sparsity.numel
            lines.append(f"{record.sparsity.zeros:,} zeros ({share:.2%}) in the pruned matrices")
        if record.masked is not None:
            lines.append(f"{record.masked.zeros:,} zeros in the masked weights")
        if record.healing is not None and record.healing.losses is not None:
            before, after = record.healing.losses
            lines.append(f"healed: loss on windows held back {before:.4f} -> {after:.4f} nats/token")
        lines.append("verified" if record.verification is not None else "not verified")
        return "\n".join(lines)


def open_pruned(directory: Path | str) -> PrunedCheckpoint:
    """A checkpoint that llmprune wrote.

    Raises:
        ArtifactError: it has no ``llmprune.json`` that can be read.
    """
    return PrunedCheckpoint(Path(directory), PruningRecord.read(Path(directory) / RECORD_NAME))
