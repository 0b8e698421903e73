"""``llmprune prune``: a model within a budget, in one command, beside the two nearest alternatives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from llmprune.artifacts.records.budget import BudgetResult, StepTimes
from llmprune.artifacts.records.importance import Importance
from llmprune.artifacts.records.protocols import Protocols
from llmprune.artifacts.records.pruning import PruningRecord
from llmprune.stages.benchmark import check_bench, without_lost
from llmprune.stages.budget_pruning.choose import Search, choose_blocks, search_unless_experts
from llmprune.stages.budget_pruning.experts import fewest_experts, others_beside
from llmprune.stages.budget_pruning.footprint import Footprint, measure_parameters, time_step
from llmprune.stages.budget_pruning.points import BudgetPoints, Cut, Listeners
from llmprune.stages.budget_pruning.settings import BudgetSettings
from llmprune.stages.calibration import calibrate, calibrated
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.expert_removal import layout_of
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
    """Remove as few blocks as a budget asks for, as SLEB ranks them, heal what stays, and measure the result.

    Of a mixture, as few experts of each block as keep the same size are tried too, and what loses less is chosen.

    Runs ``calibrate``, ``verify-redundancy``, ``remove-blocks --heal all`` and ``bench``, each where the run
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
    experts = fewest_experts(workspace, settings, footprint)
    search = search_unless_experts(workspace, settings, footprint, experts)
    workspace.progress.say(_plan(workspace, settings, footprint, search, experts))
    text = calibrate(workspace, settings.calibration) if settings.calibration else calibrated(workspace)
    ways, ranking = [Cut(experts, experts=True)] if experts is not None else [], None
    if search is not None:
        count, ranking = choose_blocks(workspace, settings, footprint, search, listeners.on_round)
        ways.insert(0, Cut(count))
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
        losses=known.losses if known is not None and same else {},
    )
    points = BudgetPoints(workspace, settings, ranking, text.tokens(), listeners.on_block)
    chosen, result = points.with_compared(points.with_dense(result), ways)
    beside = [*_nearest(workspace, chosen, ranking), *(way for way in ways if way != chosen)]
    decided = {"chosen": chosen.name, "beside": tuple(one.name for one in beside)}
    result = result.model_copy(update=decided)
    for one in beside:
        result = points.with_alternative(result, one)
    made, result = points.with_chosen(result, chosen)
    tidy(workspace.run.budget_folder, keep=(), progress=workspace.progress)
    return BudgetReport(made.directory, made.record, result)


def _nearest(workspace: Workspace, chosen: Cut, ranking: Importance | None) -> list[Cut]:
    """The same way to make the model smaller with a little less and a little more."""
    if chosen.experts:
        return [Cut(count, experts=True) for count in others_beside(chosen.count, layout_of(workspace))]
    assert ranking is not None, "blocks go by a ranking"
    return [Cut(one) for one in (chosen.count - 1, chosen.count + 1) if 1 <= one <= len(ranking.order)]


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


def _plan(
    workspace: Workspace, settings: BudgetSettings, footprint: Footprint, search: Search | None, experts: int | None
) -> str:
    """What will be done, in words."""
    outside = footprint.stored - sum(footprint.blocks)
    ways, steps = [], [] if workspace.run.calibration.exists() else ["calibrate"]
    if search is not None:
        ways.append(f"about {search.fewest} of {workspace.model.num_blocks} blocks go, healed")
        rounds = min(search.fewest + 1, search.most)
        if search.ranked < rounds:
            healing = "with" if search.settings.heal else "without"
            missing = rounds - search.ranked
            steps.append(f"{missing} round{'s' * (missing != 1)} of search, {healing} healing")
    if experts is not None:
        ways.append(f"{Cut(experts, experts=True).what} go")
        steps.append("compare both on windows that healing held back" if len(ways) > 1 else "measure the experts")
    healed = ", heal" if search is not None else ""
    steps.append(f"remove{healed} and measure this many, one fewer and one more")
    return (
        f"{footprint.stored:,} parameters, to be {settings.spelled}: {' or '.join(ways)} ({outside:,} parameters are "
        f"outside the blocks). Steps: {'; '.join(steps)}."
    )
