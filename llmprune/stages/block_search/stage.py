"""``llmprune verify-redundancy``: which blocks are redundant, decided by measurement or by a one-shot score."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import fmean

from llmprune.algorithms.blocks.elimination import EliminationRule
from llmprune.artifacts.activations import Calibration, CalibrationManifest
from llmprune.artifacts.records.differences import differences
from llmprune.artifacts.records.environment import Environment, compared
from llmprune.artifacts.records.importance import (
    Importance,
    RoundRecord,
    SearchHealing,
    SearchSettings,
    SwapRecord,
)
from llmprune.choices import Metric
from llmprune.errors import ArtifactError
from llmprune.models.compute import dtype_name
from llmprune.stages.block_search.one_shot import order_blocks, score_blocks
from llmprune.stages.block_search.refine import refine
from llmprune.stages.block_search.removable import Removable, open_check
from llmprune.stages.block_search.search import search_rounds, shuffled_windows
from llmprune.stages.block_search.settings import RedundancySettings, solving_windows
from llmprune.stages.block_search.together import RanksMeasure, place_search
from llmprune.stages.calibration import calibrated
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.healing import RIDGES, held_back


def verify_redundancy(
    workspace: Workspace,
    settings: RedundancySettings,
    *,
    on_round: Callable[[RoundRecord], None] = lambda _: None,
    on_swap: Callable[[SwapRecord], None] = lambda _: None,
    force: bool = False,
) -> Importance:
    """Rank the blocks that a target removes, going on from an earlier or interrupted search.

    Runs ``calibrate`` with its defaults first where the run has no calibration.

    Args:
        workspace: run directory and model.
        settings: what to search for.
        on_round: called after every decided round, once it is on disk.
        on_swap: the same for every swap that was tried.
        force: start anew where the run holds a search made with other settings.

    Returns:
        The importance artifact as written.

    Raises:
        TargetError: the target or another option is out of range, or fewer blocks can be removed.
        ModelError: no block can be removed.
        ArtifactError: calibration or importance file of another model, or made with other settings.
    """
    count = settings.count(workspace.model.num_blocks)
    removable = _removable(workspace, settings, count)
    calibration = _calibrated(workspace, removable)
    known = _known(workspace, calibration.manifest, settings, force=force)
    if known is not None and known.has_best(count) and not settings.swap:
        workspace.progress.say(f"{workspace.run.importance} already ranks {len(known.order)} blocks: nothing to do.")
        return known
    with workspace.writing():
        calibration = calibrated(workspace)  # looked at again: another process may have worked on both meanwhile
        known = _known(workspace, calibration.manifest, settings, force=force)
        if known is not None and known.has_best(count) and not settings.swap:
            return known
        if settings.metric != Metric.SLEB:
            return _score(workspace, calibration.manifest, settings, count, removable)
        importance = known
        if known is None or not known.has_best(count):
            for importance in _search(workspace, calibration, settings, count, known, removable):
                on_round(importance.rounds[-1])
        assert importance is not None, "a search decides a round at least"
        if settings.swap:
            importance = refine(workspace, calibration, settings, count, importance, removable, on_swap=on_swap)
    return importance


def search_steps(workspace: Workspace, settings: RedundancySettings) -> Iterator[Importance]:
    """The run's search, a round at a time: first as it is on file, then after each further round, once on disk.

    The caller holds the run for writing whenever it asks for the next. The run must have its calibration.

    Raises:
        As ``verify_redundancy`` does.
    """
    count = settings.count(workspace.model.num_blocks)
    removable = _removable(workspace, settings, count)
    calibration = _calibrated(workspace, removable)
    known = _known(workspace, calibration.manifest, settings, force=False)
    if known is not None:
        yield known
    if known is None or len(known.order) < count:
        yield from _search(workspace, calibration, settings, count, known, removable)


def _removable(workspace: Workspace, settings: RedundancySettings, count: int) -> Removable:
    return Removable(partial(open_check, workspace), settings, num_blocks=workspace.model.num_blocks, count=count)


def _calibrated(workspace: Workspace, removable: Removable) -> Calibration:
    """The run's calibration. Before one is made it is seen that the search can begin."""
    if not workspace.run.calibration.exists():
        removable.require_some()
    return calibrated(workspace)


def _known(
    workspace: Workspace, calibration: CalibrationManifest, settings: RedundancySettings, *, force: bool
) -> Importance | None:
    """The run's importance file, if it is one that this search can go on from."""
    path = workspace.run.importance
    if not path.exists() or force:
        Importance.require_place(path)
        return None
    known = Importance.read(path)
    known.check_belongs(workspace.model, path)
    Importance.require_place(path)
    how = differences(known.settings, _recorded(settings, known.settings.dtype, calibration.num_windows))
    same_text = known.windows_fingerprint == calibration.windows_fingerprint
    different = [*([] if how is None else [how]), *([] if same_text else ["another calibration"])]
    if different:
        raise ArtifactError(
            f"{path} holds a search made with other settings or another calibration "
            f"({known.settings.metric}, {known.settings.search or 'one-shot'}, "
            f"{'without' if known.settings.heal is None else 'with'} healing, {known.num_windows} x {known.seq_len} "
            f"tokens of {known.corpus.name}; it differs in: {'; '.join(different)}); type `force=True` to start anew, "
            "or `run=OTHER` to keep both."
        )
    return known


def _recorded(settings: RedundancySettings, dtype: str, num_windows: int) -> SearchSettings:
    searched = settings.metric == Metric.SLEB
    eliminates = settings.eliminates
    solved_on = solving_windows(num_windows, settings)
    healing = SearchHealing(windows=solved_on, held_back=held_back(solved_on), ridges=RIDGES) if solved_on else None
    return SearchSettings(
        metric=settings.metric,
        search=settings.search if searched else None,
        protect_first=settings.protect_first,
        protect_last=settings.protect_last,
        error_rate=settings.error_rate if eliminates else None,
        looks=EliminationRule.looks(num_windows - solved_on) if eliminates else None,
        dtype=dtype,
        heal=healing,
    )


def _importance(
    workspace: Workspace,
    calibration: CalibrationManifest,
    settings: RedundancySettings,
    dtype: str,
    *,
    scores: tuple[float, ...] | None = None,
    order: tuple[int, ...] = (),
) -> Importance:
    return Importance(
        model=workspace.model,
        corpus=calibration.corpus,
        windows_fingerprint=calibration.windows_fingerprint,
        num_windows=calibration.num_windows,
        seq_len=calibration.seq_len,
        settings=_recorded(settings, dtype, calibration.num_windows),
        dense_loss=_dense_loss(calibration, settings),
        scores=scores,
        order=order,
    )


def _dense_loss(calibration: CalibrationManifest, settings: RedundancySettings) -> float:
    """Of the windows that candidates are measured on."""
    if not settings.heal:
        return calibration.dense_loss
    _, measured = shuffled_windows(calibration.num_windows, settings, seed=calibration.seed or 0)
    return fmean(calibration.dense_losses[window] for window in measured.tolist())


def _score(
    workspace: Workspace,
    calibration: CalibrationManifest,
    settings: RedundancySettings,
    count: int,
    removable: Removable,
) -> Importance:
    """Rank by a one-shot score, which the calibration has measured already."""
    assert calibration.dtype is not None, "it was measured"
    removable.require_some()
    importance = _importance(
        workspace,
        calibration,
        settings,
        calibration.dtype,
        scores=score_blocks(calibration, settings),
        order=tuple(order_blocks(calibration, settings, count=count, removable=removable)),
    )
    importance.write(workspace.run.importance)
    return importance


def _search(
    workspace: Workspace,
    calibration: Calibration,
    settings: RedundancySettings,
    count: int,
    known: Importance | None,
    removable: Removable,
) -> Iterator[Importance]:
    """SLEB's search, saved after every round."""
    removable.require_some()
    if known is not None:
        workspace = workspace.going_on(workspace.run.importance, known.settings.dtype)
    else:
        workspace = workspace.going_on(calibration.directory, calibration.manifest.dtype)
    workspace.remark_slow_dtype()
    dtype = dtype_name(workspace.dtype)
    importance = known or _importance(workspace, calibration.manifest, settings, dtype)
    importance = _in_this_environment(importance, workspace)
    _require_same_dtype(importance, dtype, workspace)
    path, before = workspace.run.importance, _content(workspace.run.importance)
    with place_search(workspace, calibration, settings) as shares:
        together = RanksMeasure(shares)
        for decided in search_rounds(
            shares.local.evaluator,
            settings,
            measure=together,
            healer=together if settings.heal else None,
            count=count,
            removed=importance.order,
            removable=removable,
            progress=workspace.progress,
        ):
            remarks = dict.fromkeys((*importance.remarks, *shares.local.evaluator.remarks))
            importance = importance.model_copy(
                update={
                    "rounds": (*importance.rounds, decided),
                    "order": (*importance.order, decided.removed),
                    "remarks": tuple(remarks),
                }
            )
            if _content(path) != before:  # between two rounds of a ranking in Python the run is not held
                raise ArtifactError(f"{path} was changed by another process meanwhile; rank anew to go on from it.")
            importance.write(path)
            before = _content(path)
            yield importance


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _in_this_environment(importance: Importance, workspace: Workspace) -> Importance:
    """A ranking that is gone on with here; says so where it began elsewhere."""
    now = Environment.now()
    if importance.environment is not None and (changed := compared(importance.environment, now)) is not None:
        workspace.progress.say(f"From round {len(importance.rounds) + 1} on, {changed}")
    return importance.model_copy(update={"environment": now})


def _require_same_dtype(importance: Importance, dtype: str, workspace: Workspace) -> None:
    if importance.settings.dtype != dtype:
        raise ArtifactError(
            f"{workspace.run.importance} was searched in {importance.settings.dtype}, and this search would go on in "
            f"{dtype}; type `dtype={importance.settings.dtype}`, or `force=True` to start anew."
        )
