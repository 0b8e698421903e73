"""The points of a sweep: made by the other stages, measured beside the dense model, and deleted if asked for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.protocols import Protocols
from llmprune.artifacts.records.pruning import RECORD_NAME, PruningRecord
from llmprune.artifacts.records.sweep import DENSE, SkippedPoint, SweepPoint, SweepResult
from llmprune.choices import Heal
from llmprune.errors import ArtifactError, NumericalError, VerificationError
from llmprune.stages.benchmark import Benched, bench_in_run, result_name
from llmprune.stages.block_removal import RemovalSettings, remove_blocks
from llmprune.stages.common.progress import Silent
from llmprune.stages.common.workspace import Workspace, open_workspace
from llmprune.stages.output.own_folder import remove_run, tidy
from llmprune.stages.sweeping.choice import pareto_sets
from llmprune.stages.sweeping.commands import bench_command
from llmprune.stages.sweeping.plan import PlannedPoint
from llmprune.stages.sweeping.settings import SweepSettings
from llmprune.stages.weight_pruning import PruningSettings, global_prune


@dataclass(frozen=True)
class SweepContext:
    """What every point is made with.

    Attributes:
        workspace: run directory and dense model.
        settings: the grid.
        measuring: how all points are measured.
    """

    workspace: Workspace
    settings: SweepSettings
    measuring: Protocols

    @property
    def folder(self) -> Path:
        """Where the checkpoints lie."""
        return self.workspace.run.sweep_folder


def write_sweep(context: SweepContext, result: SweepResult) -> SweepResult:
    """Update the Pareto sets and the points that are under way, and write."""
    done = {point.name for point in result.measured} | {point.name for point in result.skipped}
    begun = {name: file for name, file in result.begun.items() if name not in done}
    result = result.model_copy(update={"pareto": pareto_sets(result.measured), "begun": begun})
    with context.workspace.writing():
        result.write(context.workspace.run.sweep)
    return result


def begin_point(context: SweepContext, result: SweepResult, name: str) -> SweepResult:
    """Note the file of a point's benchmark before it is measured: after an interruption the same file is written."""
    if name in result.begun:
        return result
    return write_sweep(context, result.model_copy(update={"begun": {**result.begun, name: result_name()}}))


def _bench(context: SweepContext, model: str, dense: BenchResult | None, file: str) -> Benched:
    """Measure a model into ``file``, under the protocols that the sweep began with."""
    benched = bench_in_run(context.workspace, model, context.settings.measured, dense=dense, file=file)
    if benched.result.perplexity != context.measuring.perplexity:
        raise ArtifactError(
            f"A text of `ppl` has changed since the sweep began, so {model} does not compare with the other points; "
            "put it back, or type `force=True` to start anew."
        )
    return benched


def measure_dense(context: SweepContext, result: SweepResult) -> SweepResult:
    """Measure the dense model alone, and write."""
    workspace = context.workspace
    result = begin_point(context, result, DENSE)
    benched = _bench(context, workspace.record.model, None, result.begun[DENSE])
    command = bench_command(context.settings, context.measuring, workspace)
    point = SweepPoint(
        name=DENSE,
        metrics=benched.result.metrics,
        bench=benched.path,
        checkpoint=None,
        commands=(command,),
        bench_seconds=benched.seconds,
    )
    return write_sweep(context, result.model_copy(update={"dense": point, "machine": benched.result.machine}))


def try_point(
    context: SweepContext, point: PlannedPoint, dense: BenchResult | None, file: str
) -> SweepPoint | SkippedPoint:
    """Make a point's checkpoint, and measure it into ``file``. One whose numbers fail is left out."""
    try:
        return _make_point(context, point, dense, file)
    except (NumericalError, VerificationError) as error:
        return SkippedPoint(name=point.name, reason=str(error))


def _make_point(context: SweepContext, point: PlannedPoint, dense: BenchResult | None, file: str) -> SweepPoint:
    started = time.monotonic()
    directory = _prune(context, point)
    seconds = time.monotonic() - started
    benched = _bench(context, str(directory), dense, file)
    return SweepPoint(
        name=point.name,
        target=point.target,
        removed=point.removed,
        pattern=str(point.pattern) if point.pattern is not None else None,
        budget=str(point.budget) if point.budget is not None else None,
        metrics=benched.result.metrics,
        bench=benched.path,
        checkpoint=str(directory.relative_to(context.workspace.run.path)),
        commands=(
            *_making_commands(context, point),
            bench_command(context.settings, context.measuring, context.workspace, directory),
        ),
        prune_seconds=seconds,
        bench_seconds=benched.seconds,
    )


def _prune(context: SweepContext, point: PlannedPoint) -> Path:
    """Make a point's checkpoint: blocks are removed first, then weights of the other blocks are pruned."""
    workspace, settings, out = context.workspace, context.settings, context.folder / point.folder
    if point.target is not None:
        alone = context.folder / point.alone.folder
        made_before = point.pattern is not None  # or deleted since then: in either case there is nothing new to say
        listened = replace(workspace, progress=Silent()) if made_before else workspace
        remove_blocks(listened, RemovalSettings(target=point.target, heal=Heal.NONE, out=alone, verify=settings.verify))
        if point.pattern is None:
            return alone
        workspace = _workspace_of(alone, workspace)
    assert point.pattern is not None
    calibration = context.workspace.run.calibration
    pruning = PruningSettings(point.pattern, settings.method, calibration=calibration, out=out, verify=settings.verify)
    return global_prune(workspace, pruning).directory


def _making_commands(context: SweepContext, point: PlannedPoint) -> list[str]:
    """The recorded commands of the point's checkpoint, and before it of the one that it was made from."""
    made = dict.fromkeys([point.alone.folder, point.folder] if point.target is not None else [point.folder])
    return [PruningRecord.read(context.folder / folder / RECORD_NAME).made_by for folder in made]


def _workspace_of(checkpoint: Path, dense: Workspace) -> Workspace:
    """A run directory for one of the sweep's checkpoints. It holds nothing but which model it belongs to."""
    place = checkpoint.with_name(f"{checkpoint.name}.run")
    remove_run(place)  # it may be from before the whole run was moved
    return open_workspace(
        place,
        str(checkpoint),
        compute=dense.compute,
        progress=dense.progress,
        trust_remote_code=dense.trust_remote_code,
        folder=dense.folder,
        intact=dense.intact,
    )


def delete_checkpoints(context: SweepContext, result: SweepResult, coming: Sequence[PlannedPoint]) -> SweepResult:
    """Delete all checkpoints but those of coming points and their sources. That they are gone is written first."""
    kept = {folder for point in coming for folder in (point.folder, f"{point.folder}.partial")}
    kept |= {point.alone.folder for point in coming if point.target is not None}
    needed = [context.folder / folder for folder in kept]
    gone = tuple(
        point
        if point.checkpoint is None or context.workspace.run.path / point.checkpoint in needed
        else point.model_copy(update={"checkpoint": None})
        for point in result.points
    )
    if gone != result.points:
        result = write_sweep(context, result.model_copy(update={"points": gone}))
    tidy(context.folder, keep=needed, progress=context.workspace.progress)
    return result
