"""Blocks ranked by a score of one pass over the dense model, which measures nothing again after a removal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from llmprune.algorithms.blocks.scores import closest_run, least_influential
from llmprune.artifacts.activations import BlockStatistics
from llmprune.choices import Metric
from llmprune.stages.block_search.removable import Removable
from llmprune.stages.block_search.settings import RedundancySettings, protected_blocks


class DenseStatistics(Protocol):
    """What a pass over the dense model measured, in memory or in a calibration's manifest."""

    @property
    def blocks(self) -> tuple[BlockStatistics, ...]:
        """Statistics, a record for each block."""

    @property
    def angular_distances(self) -> tuple[tuple[float, ...], ...]:
        """(num_blocks + 1) rows of as many."""


def score_blocks(measured: DenseStatistics, settings: RedundancySettings) -> tuple[float, ...]:
    """A score for each block: the smaller, the more redundant it looks."""
    if settings.metric == Metric.BLOCK_INFLUENCE:
        return tuple(block.influence for block in measured.blocks)
    return tuple(measured.angular_distances[block][block + 1] for block in range(len(measured.blocks)))


def order_blocks(
    measured: DenseStatistics, settings: RedundancySettings, *, count: int, removable: Removable
) -> Sequence[int]:
    """The blocks that go, in order.

    Raises:
        TargetError: fewer than ``count`` can go.
    """
    protected, may_go = protected_blocks(settings, len(measured.blocks)), removable.may_go
    if settings.metric == Metric.BLOCK_INFLUENCE:
        return least_influential(score_blocks(measured, settings), count=count, protected=protected, may_go=may_go)
    return closest_run(measured.angular_distances, count=count, protected=protected, may_go=may_go)
