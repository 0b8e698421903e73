"""Swaps behind a search, saved after every one that was tried."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from llmprune.algorithms.blocks.elimination import EliminationRule
from llmprune.algorithms.blocks.swaps import Swap, after_swaps, swap_rounds
from llmprune.artifacts.activations import Calibration
from llmprune.artifacts.records.importance import Importance, Refinement, SwapRecord
from llmprune.stages.block_search.removable import Removable
from llmprune.stages.block_search.settings import RedundancySettings, protected_blocks
from llmprune.stages.block_search.together import RanksMeasure, place_search
from llmprune.stages.common.workspace import Workspace


def refine(
    workspace: Workspace,
    calibration: Calibration,
    settings: RedundancySettings,
    count: int,
    importance: Importance,
    removable: Removable,
    *,
    on_swap: Callable[[SwapRecord], None],
) -> Importance:
    """Swap blocks among the first ``count`` of a ranking, going on behind what an earlier command has tried.

    The caller holds the run for writing.
    """
    workspace = workspace.going_on(workspace.run.importance, importance.settings.dtype)
    order = importance.order[:count]
    known = importance.refinement
    records = known.swaps if known is not None and len(known.removed) == count else ()
    with place_search(workspace, calibration, settings) as shares:
        together = RanksMeasure(shares)
        swaps = swap_rounds(
            shares.local.evaluator,
            order,
            most=settings.swap,
            level=settings.error_rate,
            tried=[_swap(record) for record in records],
            protected=protected_blocks(settings, workspace.model.num_blocks),
            may_go=removable.may_go,
            rule=EliminationRule(settings.error_rate) if settings.eliminates else None,
            healer=together if settings.heal else None,
            measure=together,
        )
        began = time.monotonic()
        with workspace.progress.task("Swapping", count) as advance:
            for swap in swaps:
                record = SwapRecord(**asdict(swap), seconds=time.monotonic() - began)
                records = (*records, record)
                importance = _with(importance, order, records)
                importance.write(workspace.run.importance)
                advance(1)
                on_swap(record)
                began = time.monotonic()
    return importance


def _swap(record: SwapRecord) -> Swap:
    return Swap(**record.model_dump(exclude={"seconds"}))


def _with(importance: Importance, order: Sequence[int], records: tuple[SwapRecord, ...]) -> Importance:
    kept = [record for record in records if record.kept]
    loss = kept[-1].loss if kept else importance.rounds[len(order) - 1].loss
    removed = after_swaps(order, [_swap(record) for record in records])
    return importance.model_copy(update={"refinement": Refinement(swaps=records, removed=removed, loss=loss)})
