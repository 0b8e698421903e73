"""``llmprune prune``: a model within a budget, in one command, beside the two nearest alternatives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from llmprune.artifacts.records.budget import BudgetResult, StepTimes
from llmprune.artifacts.records.protocols import Protocols
from llmprune.artifacts.records.pruning import PruningRecord
from llmprune.stages.benchmark import check_bench, without_lost
from llmprune.stages.budget_pruning.choose import Search, choose_blocks, planned_search
from llmprune.stages.budget_pruning.footprint import Footprint, measure_parameters, time_step
from llmprune.stages.budget_pruning.points import BudgetPoints, Listeners, point_name
from llmprune.stages.budget_pruning.settings import BudgetSettings
from llmprune.stages.calibration import calibrate, calibrated
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.output.own_folder import require_own_folder, tidy
from llmprune.stages.output.place import check_output


@dataclass(frozen=True)
class BudgetReport:
    """What was written.

    Attributes:
        directory: the pruned checkpoint.
        record: its ``llmprune.json``.
        result: what was chosen, and what stands beside it.
    """

    directory: Path
    record: PruningRecord
    result: BudgetResult


def prune_to_budget(
    workspace: Workspace, settings: BudgetSettings, *, listeners: Listeners | None = None
) -> BudgetReport:
    """Remove as few blocks as a budget asks for, chosen and healed towards the dense model, and measure the result.

    Runs ``calibrate``, ``verify-redundancy --heal``, ``remove-blocks --heal all`` and ``bench``, each where the run
    does not hold its result. Beside the chosen model the ones with a block fewer and a block more are made, measured
    and deleted. Typed again after an interruption, everything that was finished is kept.

    Args:
        workspace: run directory and model.
        settings: the budget, and where to write.
        listeners: who hears of every round and of every block that is healed.

    Raises:
        TargetError: a budget that the model cannot keep, or keeps as it is.
        OutputExistsError: the output directory holds something else.
        ModelError: the model cannot be run block by block, or no block can be removed.
        ArtifactError: artifacts of another model or other settings in the run directory.
        CorpusError: a text cannot be had, or is too short.
        LlmpruneError: as the stages do that it is made of.
    """
    listeners = listeners or Listeners()
    if settings.out is not None:
        check_output(workspace, settings.out, force=settings.force)
    measuring = check_bench(workspace, settings.bench)
    known = _known(workspace, measuring, force=settings.force)
    footprint = footprint_of(workspace, settings, known.times if known is not None else None)
    search = planned_search(workspace, settings, footprint)
    workspace.progress.say(_plan(workspace, settings, footprint, search))
    text = calibrate(workspace, settings.calibration) if settings.calibration else calibrated(workspace)
    count, ranking = choose_blocks(workspace, settings, footprint, search, listeners.on_round)
    beside = [one for one in (count - 1, count + 1) if 1 <= one <= len(ranking.order)]
    fingerprint = text.manifest.windows_fingerprint
    same = known is not None and known.windows_fingerprint == fingerprint
    result = BudgetResult(
        model=workspace.model,
        size=settings.size,
        speed_up=settings.speed_up,
        times=footprint.times,
        windows_fingerprint=fingerprint,
        measuring=measuring,
        dense=known.dense if known is not None else None,
        begun=known.begun if known is not None else {},
        points=known.points if known is not None and same else (),
        chosen=point_name(count),
        beside=tuple(map(point_name, beside)),
    )
    points = BudgetPoints(workspace, settings, ranking, listeners.on_block)
    result = points.with_dense(result)
    for one in beside:
        result = points.with_alternative(result, one)
    report, result = points.with_chosen(result, count)
    tidy(workspace.run.budget_folder, keep=(), progress=workspace.progress)
    return BudgetReport(report.directory, report.record, result)


def _known(workspace: Workspace, measuring: Protocols, *, force: bool) -> BudgetResult | None:
    """What an earlier command measured of this model in the same way, where nothing of anybody else is in the way."""
    path = workspace.run.budget
    require_own_folder(workspace.run.budget_folder)
    BudgetResult.require_place(path)
    if force or not path.exists():
        return None
    known = BudgetResult.read(path)
    if (known.model, known.measuring) != (workspace.model, measuring):
        return None
    return without_lost(known, workspace.run, workspace.progress)


def footprint_of(workspace: Workspace, settings: BudgetSettings, known: StepTimes | None) -> Footprint:
    """The model's parts; their times are those of an earlier command, so that it chooses the same again."""
    footprint = measure_parameters(workspace.open_shell())
    if settings.speed_up is None:
        return footprint
    (batch, *_) = settings.bench.batch
    if known is None or known.batch != batch:
        known = time_step(workspace.open_decoder(), batch=batch)
    return replace(footprint, times=known)


def _plan(workspace: Workspace, settings: BudgetSettings, footprint: Footprint, search: Search) -> str:
    """What will be done, in words."""
    depth, fewest = workspace.model.num_blocks, search.fewest
    outside = footprint.stored - sum(footprint.blocks)
    made = f"about {fewest} of {depth} blocks go, healed ({outside:,} parameters are outside the blocks)"
    steps = [] if workspace.run.calibration.exists() else ["calibrate"]
    rounds = min(fewest + 1, search.most)
    if search.ranked < rounds:
        healing = "with" if search.settings.heal else "without"
        missing = rounds - search.ranked
        steps.append(f"{missing} round{'s' * (missing != 1)} of search, {healing} healing")
    steps.append("remove, heal and measure this many, one fewer and one more")
    return f"{footprint.stored:,} parameters, to be {settings.spelled}: {made}. Steps: {'; '.join(steps)}."
