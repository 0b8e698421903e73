"""``llmprune sweep``: a grid of pruned models, made by the other stages and measured beside the dense one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llmprune.artifacts.activations import Calibration
from llmprune.artifacts.records.importance import Importance, RoundRecord
from llmprune.artifacts.records.protocols import Protocols
from llmprune.artifacts.records.sweep import SkippedPoint, SweepPoint, SweepPruning, SweepResult
from llmprune.choices import Metric
from llmprune.errors import ArtifactError, TargetError
from llmprune.stages.benchmark import check_bench
from llmprune.stages.block_removal import RemovalSettings, choose_removal
from llmprune.stages.block_search import RedundancySettings, as_recorded
from llmprune.stages.calibration import (
    CalibrationSettings,
    calibrate,
    calibration_remarks,
    drawn_calibration,
)
from llmprune.stages.common.plans import Plan, plan_of
from llmprune.stages.common.progress import Once
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.output.own_folder import require_own_folder
from llmprune.stages.sweeping.cost import SweepCost, announcement, foresee, require_room, sweep_basis
from llmprune.stages.sweeping.files import (
    as_measured,
    clear_unless_same,
    read_sweep,
    require_points_intact,
    require_same_pruning,
)
from llmprune.stages.sweeping.makers import Task, opened_makers
from llmprune.stages.sweeping.plan import PlannedPoint, WeightCounts, count_weights, plan_points
from llmprune.stages.sweeping.points import (
    SweepContext,
    begin_point,
    delete_checkpoints,
    measure_dense,
    write_sweep,
)
from llmprune.stages.sweeping.settings import SweepSettings
from llmprune.stages.weight_pruning import Selection, check_shapes


@dataclass(frozen=True)
class PointDone:
    """A point that has just been measured.

    Attributes:
        point: it.
        number: which one it is, from 1, of those that were asked for.
        total: how many were.
        seconds_left: expected for the others.
    """

    point: SweepPoint
    number: int
    total: int
    seconds_left: float


def sweep(
    workspace: Workspace,
    settings: SweepSettings,
    *,
    on_point: Callable[[PointDone], None] = lambda _: None,
    on_round: Callable[[RoundRecord], None] = lambda _: None,
) -> SweepResult:
    """Prune and measure a grid of models, and find the Pareto sets.

    One search serves all block targets, and one calibration serves everything. The weights of a combined point are
    pruned in the checkpoint that its blocks were removed from. A sweep that was stopped continues at the point where
    it was. A sweep with more points keeps those that are there.

    Args:
        workspace: run directory and model.
        settings: the grid, and how it is measured.
        on_point: called for every point that is measured now, once it is on disk.
        on_round: called for every round of a search.

    Returns:
        The sweep as written to ``sweep.json``. ``choose_best`` tells the best point under limits.

    Raises:
        OutputExistsError: the sweep's folder is a link, or holds what no sweep made.
        LlmpruneError: as the stages that it is made of. What can be refused is refused before anything is made. A
            point whose numbers fail (``NumericalError``, ``VerificationError``) is left out instead.
    """
    require_own_folder(workspace.run.sweep_folder)
    with workspace.writing():  # nobody replaces what the sweep builds on
        require_own_folder(workspace.run.sweep_folder)
        workspace = as_measured(replace(workspace, progress=Once(workspace.progress)), force=settings.force)
        measuring = _check(workspace, settings)
        context = SweepContext(workspace, settings, measuring)
        known = read_sweep(workspace, measuring, force=settings.force)
        require_points_intact(workspace, known)
        sizes = count_weights(workspace.open_shell())
        cost = _announce(context, known, sizes)
        pruning = _prepare(context, known)
        removed = _removed(context, on_round)
        planned, skipped = plan_points(settings, sizes, removed)
        if known is None:
            clear_unless_same(workspace.run, pruning, workspace.progress)
            known = SweepResult(model=workspace.model, pruning=pruning, measuring=measuring)
        names = tuple(point.name for point in planned)
        result = write_sweep(context, known.model_copy(update={"planned": names, "skipped": tuple(skipped)}))
        if result.dense is None:
            result = measure_dense(context, result)
        return _make_all(context, result, planned, cost, on_point)


def _check(workspace: Workspace, settings: SweepSettings) -> Protocols:
    """Check that everything can be made and measured, before anything is made; return how it will be measured."""
    _counts(workspace, settings)
    shell = workspace.open_shell()
    for pattern in settings.patterns:
        check_shapes(shell, range(len(shell.blocks)), Selection(), pattern)
    return check_bench(workspace, settings.measured)


def _counts(workspace: Workspace, settings: SweepSettings) -> dict[str, int]:
    """How many blocks each target removes. Two that remove the same number are one point typed twice."""
    ranking = _ranking(workspace, settings)
    redundancy = as_recorded(ranking.settings) if ranking is not None else RedundancySettings()
    depth = workspace.model.num_blocks
    counts: dict[str, int] = {}
    for target in settings.targets:
        count = replace(redundancy, target=target).count(depth)
        for other in (other for other, others in counts.items() if others == count):
            raise TargetError(f"`targets={other}` and {target} both remove {count} of {depth} blocks; leave out one.")
        counts[target] = count
    return counts


def _ranking(workspace: Workspace, settings: SweepSettings) -> Importance | None:
    """The run's ranking of blocks, if it has one.

    Raises:
        ArtifactError: it is another model's, or by another metric than was asked for.
    """
    path = workspace.run.importance
    if not path.exists():
        return None
    ranking = Importance.read(path)
    ranking.check_belongs(workspace.model, path)
    if settings.targets and settings.metric not in {None, ranking.settings.metric}:
        raise ArtifactError(
            f"{path} ranks blocks by {ranking.settings.metric}, not by {settings.metric}; type `run=OTHER`, or: "
            f"llmprune verify-redundancy --metric {settings.metric} --force"
        )
    return ranking


def _metric(workspace: Workspace, settings: SweepSettings) -> Metric:
    ranking = _ranking(workspace, settings)
    return settings.metric or (ranking.settings.metric if ranking is not None else Metric.SLEB)


def plan_sweep(workspace: Workspace, settings: SweepSettings) -> Plan:
    """What ``sweep`` is expected to take. Nothing is written.

    Raises:
        LlmpruneError: as ``sweep`` does, as far as settings and artifacts alone tell.
    """
    workspace = as_measured(workspace, force=settings.force)
    sizes = count_weights(workspace.open_shell())
    planned, _ = plan_points(settings, sizes, _likely(workspace, settings))
    basis = sweep_basis(workspace, settings)
    cost = foresee(basis, planned, metric=_metric(workspace, settings))
    return plan_of(
        "sweep", basis.cost, cost.steps, ["Every point is a rough figure", *calibration_remarks(basis.windows)]
    )


def _likely(workspace: Workspace, settings: SweepSettings) -> dict[str, tuple[int, ...]]:
    """The blocks that each target may remove, as far as is known before the search."""
    ranking = _ranking(workspace, settings)
    order = ranking.order if ranking is not None else ()
    likely = (*order, *(block for block in range(1, workspace.model.num_blocks) if block not in order))
    return {target: likely[:count] for target, count in _counts(workspace, settings).items()}


def _announce(context: SweepContext, known: SweepResult | None, sizes: WeightCounts) -> SweepCost | None:
    """Announce the points that are missing, and check that the disk has room; None if no point is missing."""
    workspace, settings = context.workspace, context.settings
    planned, _ = plan_points(settings, sizes, _likely(workspace, settings))
    done = {point.name for point in known.points} if known is not None else set()
    planned = [point for point in planned if point.name not in done]
    if not planned:
        workspace.progress.say(f"{workspace.run.sweep} has all of these points already: nothing to do.")
        return None
    cost = foresee(sweep_basis(workspace, settings), planned, metric=_metric(workspace, settings))
    require_room(context.folder, cost.disk, keep=settings.keep)
    measured = known is not None and known.dense is not None
    workspace.progress.say(announcement(planned, cost, keep=settings.keep, dense=measured))
    return cost


def _prepare(context: SweepContext, known: SweepResult | None) -> SweepPruning:
    """Calibrate, and check that an earlier sweep used the same calibration."""
    workspace, settings = context.workspace, context.settings
    manifest = _calibrated(workspace, settings).manifest
    pruning = SweepPruning(
        method=settings.method.value,
        metric=_metric(workspace, settings),
        corpus=manifest.corpus,
        windows_fingerprint=manifest.windows_fingerprint,
        windows=manifest.num_windows,
        seq_len=manifest.seq_len,
    )
    if known is not None:
        require_same_pruning(workspace, known, pruning)
    return pruning


def _calibrated(workspace: Workspace, settings: SweepSettings) -> Calibration:
    if settings.calibration is not None or not workspace.run.calibration.exists():
        return calibrate(workspace, settings.calibration or CalibrationSettings())
    return drawn_calibration(workspace)


def _removed(context: SweepContext, on_round: Callable[[RoundRecord], None]) -> dict[str, tuple[int, ...]]:
    """The blocks that each target removes: the largest is searched for, the others are the first of its order."""
    workspace, settings = context.workspace, context.settings
    counts = _counts(workspace, settings)
    redundancy = RedundancySettings(metric=_metric(workspace, settings))
    return {
        target: choose_removal(workspace, RemovalSettings(target=target), redundancy, on_round).removed
        for target in sorted(counts, key=lambda target: -counts[target])
    }


def _make_all(
    context: SweepContext,
    result: SweepResult,
    planned: Sequence[PlannedPoint],
    cost: SweepCost | None,
    on_point: Callable[[PointDone], None],
) -> SweepResult:
    """Make and measure the missing points, and delete the checkpoints that are not to be kept."""
    assert result.dense is not None
    dense, known = result.dense.bench, {point.name for point in result.points}
    coming = [point for point in planned if point.name not in known]
    names, missing = ([point.name for point in points] for points in (planned, coming))
    spent: dict[str, float] = {}
    with opened_makers(context) as makers:
        while coming:
            chosen = makers.next_points(coming)
            for point in chosen:
                result = begin_point(context, result, point.name)
            tasks = [Task(point, result.begun[point.name]) for point in chosen]
            made = makers.make(tasks, dense)
            coming = [point for point in coming if point not in chosen]
            result = _with_made(context, result, made, missing)
            done = [one for one in made if isinstance(one, SweepPoint)]
            spent |= {one.name: (one.prune_seconds + one.bench_seconds) / len(chosen) for one in done}
            left = cost.left([point.name for point in coming], spent=spent) if cost is not None else 0.0
            for one in done:
                on_point(PointDone(one, names.index(one.name) + 1, len(planned), left))
            if not context.settings.keep:
                result = delete_checkpoints(context, result, coming)
    return result if context.settings.keep else delete_checkpoints(context, result, coming)


def _with_made(
    context: SweepContext, result: SweepResult, made: Sequence[SweepPoint | SkippedPoint], missing: Sequence[str]
) -> SweepResult:
    """Note what came of points, behind those that were there in the order of ``missing``.

    One whose numbers failed gets a remark.
    """
    points = [*result.points, *(one for one in made if isinstance(one, SweepPoint))]
    skipped = [one for one in made if isinstance(one, SkippedPoint)]
    for one in skipped:
        context.workspace.progress.say(f"{one.name} is left out: {one.reason}")
    points.sort(key=lambda point: missing.index(point.name) if point.name in missing else -1)
    changed = {"points": tuple(points), "skipped": (*result.skipped, *skipped)}
    return write_sweep(context, result.model_copy(update=changed))
