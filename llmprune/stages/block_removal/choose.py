"""Which blocks are removed: those that were typed, or the first ones of the run's ranking.

A ranking that is missing or too short is made or continued first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from llmprune.artifacts.files.digests import FileDigest
from llmprune.artifacts.records.importance import Importance, RoundRecord, check_blocks
from llmprune.artifacts.records.pruning import BlockRemoval
from llmprune.errors import ArtifactError
from llmprune.stages.block_removal.settings import RemovalSettings
from llmprune.stages.block_search import RedundancySettings, as_recorded, verify_redundancy
from llmprune.stages.common.workspace import Workspace


def choose_removal(
    workspace: Workspace,
    settings: RemovalSettings,
    redundancy: RedundancySettings | None = None,
    on_round: Callable[[RoundRecord], None] = lambda _: None,
) -> BlockRemoval:
    """The blocks to remove, from the command line or from the importance file. Missing rounds are searched now.

    Args:
        workspace: run directory and model.
        settings: a target, or blocks by hand.
        redundancy: how to search if the importance file is missing. A search that is too short continues as it began.
        on_round: called for every round that is searched.

    Raises:
        TargetError: target or block list out of range.
        ArtifactError: an importance file or calibration of another model or other settings.
        ModelError: the model cannot be run block by block, or none of its blocks can be removed.
    """
    depth, path = workspace.model.num_blocks, workspace.run.importance
    if settings.blocks is not None:
        check_blocks(settings.blocks, num_blocks=depth, source="`blocks`")
        return _ranked(workspace, settings.blocks) or BlockRemoval(removed=settings.blocks)
    known = Importance.read(path) if path.exists() else None
    if known is not None:
        known.check_belongs(workspace.model, path)
        redundancy = as_recorded(known.settings)
    redundancy = replace(redundancy or RedundancySettings(), target=settings.target)
    if known is not None and known.has_best(count := redundancy.count(depth)):
        return _prefix(known, count, path)
    workspace.progress.say(
        f"{path} does not tell which blocks to remove for {settings.target} yet: running verify-redundancy first."
    )
    searched = verify_redundancy(workspace, redundancy, on_round=on_round)
    return _prefix(searched, len(searched.order), path)


def _ranked(workspace: Workspace, blocks: tuple[int, ...]) -> BlockRemoval | None:
    """The removal of typed blocks that are the first ones of the run's ranking, in its order; None if they are not.

    The recorded command of a removal by a target names its blocks. So it makes the same checkpoint where the run is
    missing, and the same record where the run is there. Typed blocks need no ranking: one that cannot be used is said.
    """
    path = workspace.run.importance
    if not path.exists():
        return None
    try:
        known = Importance.read(path)
        known.check_belongs(workspace.model, path)
    except ArtifactError as error:
        workspace.progress.say(f"The record of the removal will not say how these blocks were ranked: {error}")
        return None
    head = known.first(len(blocks)) == blocks and known.has_best(len(blocks))
    return _prefix(known, len(blocks), path) if head else None


def _prefix(known: Importance, count: int, path: Path) -> BlockRemoval:
    """The first ``count`` blocks of a ranking."""
    return BlockRemoval(
        removed=known.first(count),
        metric=known.settings.metric,
        importance=FileDigest.of_file(path).sha256,
        calibration=known.measured_on,
        dense_loss=known.dense_loss,
        pruned_loss=known.loss_without(count),
        corpus=known.corpus,
        search_heals=known.settings.heal is not None,
    )
