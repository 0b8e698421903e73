"""The models that a sweep makes: blocks removed, zeros in weights, and both with one budget of weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmprune.algorithms.weights.patterns import Pattern, SemiStructured, Unstructured
from llmprune.artifacts.records.sweep import SkippedPoint
from llmprune.choices import Combine
from llmprune.models.checkpoint_decoder import CheckpointDecoder
from llmprune.models.open_block import block_matrices
from llmprune.stages.sweeping.settings import SweepSettings
from llmprune.stages.weight_pruning import Selection

_LEAST_ZEROS = 5e-4  # a smaller share of zeros is not worth a point of its own


@dataclass(frozen=True)
class WeightCounts:
    """The numbers of weights of a dense model.

    Attributes:
        stored: in all, tied ones once.
        blocks: of every block.
        prunable: of every block's matrices that can be pruned.
    """

    stored: int
    blocks: tuple[int, ...]
    prunable: tuple[int, ...]

    def without(self, removed: Sequence[int]) -> int:
        """Weights stored when these blocks are removed."""
        return self.stored - sum(self.blocks[block] for block in removed)

    def sparsity_beside(self, ratio: float, removed: Sequence[int]) -> float:
        """The share of zeros in the other blocks that leaves as many weights as ``ratio`` leaves in the whole model."""
        zeros = ratio * sum(self.prunable)
        left = sum(weights for block, weights in enumerate(self.prunable) if block not in removed)
        return (zeros - sum(self.blocks[block] for block in removed)) / left


@dataclass(frozen=True)
class PlannedPoint:
    """A model to be made and measured.

    Attributes:
        target: of block removal, as typed; None: all blocks stay.
        removed: the blocks that go.
        pattern: of the zeros; None: none are made.
        budget: the pattern whose number of weights a combined point keeps; None: ``pattern`` is as typed.
    """

    target: str | None = None
    removed: tuple[int, ...] = ()
    pattern: Pattern | None = None
    budget: Pattern | None = None

    @property
    def name(self) -> str:
        """Its name in results."""
        parts = [f"blocks {self.target}"] if self.target is not None else []
        if self.pattern is not None:
            kind = "pattern" if isinstance(self.pattern, SemiStructured) else "sparsity"
            parts.append(f"{kind} {self.pattern}")
        return " + ".join(parts)

    @property
    def folder(self) -> str:
        """The name of its checkpoint's directory."""
        return re.sub(r"[^a-z0-9.]+", "-", self.name.replace("%", "pct").replace(":", "of"))

    @property
    def alone(self) -> PlannedPoint:
        """The same blocks removed, without zeros."""
        return PlannedPoint(self.target, self.removed)


def count_weights(shell: CheckpointDecoder) -> WeightCounts:
    """Count a model's weights, from its files' headers alone."""
    tensors = shell.checkpoint.tensors
    taken = Selection().takes
    slots = [list(filter(taken, block_matrices(shell, block))) for block in range(len(shell.blocks))]
    return WeightCounts(
        stored=shell.checkpoint.num_parameters,
        blocks=tuple(sum(tensors[name].numel for name in names) for names in shell.names.by_block),
        prunable=tuple(sum(slot.numel for slot in block) for block in slots),
    )


def plan_points(
    settings: SweepSettings, sizes: WeightCounts, removed: Mapping[str, tuple[int, ...]]
) -> tuple[list[PlannedPoint], list[SkippedPoint]]:
    """The points of a sweep in the order in which they are made, and those that are left out.

    Zeros alone come first. Then come the targets, the largest first, because its search serves all others: for each
    the blocks alone, and then the points that are made from that checkpoint.

    Args:
        settings: the grid.
        sizes: of the dense model.
        removed: the blocks that each target removes.
    """
    planned = [PlannedPoint(pattern=pattern) for pattern in settings.patterns]
    skipped: list[SkippedPoint] = []
    for target in sorted(settings.targets, key=lambda target: -len(removed[target])):
        alone = PlannedPoint(target, removed[target])
        planned.append(alone)
        for pattern in settings.patterns if settings.combine != Combine.NONE else ():
            combined = _combined(alone, pattern, settings, sizes)
            if isinstance(combined, SkippedPoint):
                skipped.append(combined)
            else:
                planned.append(combined)
    return planned, skipped


def _combined(
    alone: PlannedPoint, pattern: Pattern, settings: SweepSettings, sizes: WeightCounts
) -> PlannedPoint | SkippedPoint:
    """Zeros in the blocks that are left. An N:M pattern cannot meet a budget, and is applied as typed."""
    if settings.combine == Combine.GRID or isinstance(pattern, SemiStructured):
        return PlannedPoint(alone.target, alone.removed, pattern)
    ratio = round(sizes.sparsity_beside(pattern.ratio, alone.removed), 4)
    if ratio < _LEAST_ZEROS:
        return SkippedPoint(
            name=f"{alone.name} within sparsity {pattern}",
            reason=f"{alone.name} alone leaves no more weights than sparsity {pattern} does.",
        )
    return PlannedPoint(alone.target, alone.removed, Unstructured(ratio), pattern)
