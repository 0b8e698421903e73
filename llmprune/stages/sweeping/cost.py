"""The cost of a sweep, estimated before it starts from what its stages are expected to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmprune.artifacts.files.disk_space import existing_folder, free_space
from llmprune.artifacts.files.sizes import format_size
from llmprune.artifacts.records.sweep import DENSE
from llmprune.choices import Heal, Metric
from llmprune.errors import LlmpruneError
from llmprune.stages.benchmark import (
    Measured,
    bench_steps,
    expected_of_dense,
    measured_texts,
)
from llmprune.stages.block_removal import removal_steps
from llmprune.stages.block_search import RedundancySettings, search_estimate
from llmprune.stages.calibration import Windows, calibration_steps, expected_windows
from llmprune.stages.common.model_cost import ModelCost, measure
from llmprune.stages.common.plans import Estimate, spell_seconds, together
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.sweeping.makers import points_at_once
from llmprune.stages.sweeping.plan import PlannedPoint
from llmprune.stages.sweeping.settings import SweepSettings
from llmprune.stages.weight_pruning import PruningSettings, pruning_steps


@dataclass(frozen=True)
class SweepCost:
    """What a sweep is expected to take.

    Attributes:
        preparing: calibration and search.
        dense: the dense model's benchmark.
        points: of every point, by name, to make and to measure it; of several at once, each one's part of the time.
        at_once: how many are made at the same time.
    """

    preparing: tuple[Estimate, ...]
    dense: Estimate
    points: Mapping[str, Estimate]
    at_once: int = 1

    @property
    def steps(self) -> tuple[Estimate, ...]:
        """All of it, in order."""
        return (*self.preparing, self.dense, *self.points.values())

    @property
    def disk(self) -> int:
        """Bytes on the disk at most."""
        beside = sorted((point.disk for point in self.points.values()), reverse=True)[1 : self.at_once]
        return together("", self.steps).disk + sum(beside)

    def left(self, names: Sequence[str], *, spent: Mapping[str, float]) -> float:
        """Expected seconds for the points ``names``, corrected by how long the finished points took.

        Args:
            names: of the points that are still to be done.
            spent: real seconds of those that are done, by name.
        """
        seconds = {name: point.seconds or 0.0 for name, point in self.points.items()}
        usual = sum(seconds.values()) / len(seconds)  # of a point that was not expected before the search
        expected = sum(seconds.get(name, usual) for name in spent)
        pace = sum(spent.values()) / expected if expected else 1.0
        return pace * sum(seconds.get(name, usual) for name in names)


@dataclass(frozen=True)
class SweepBasis:
    """What a sweep's cost follows from.

    Attributes:
        workspace: run directory and dense model.
        settings: the grid.
        cost: of the dense model.
        windows: of calibration.
        measured: by each benchmark.
    """

    workspace: Workspace
    settings: SweepSettings
    cost: ModelCost
    windows: Windows
    measured: Measured


def sweep_basis(workspace: Workspace, settings: SweepSettings) -> SweepBasis:
    """Measure a block of the dense model, and note what a sweep's cost follows from."""
    measured = expected_of_dense(workspace, settings.measured)
    workspace, windows = expected_windows(workspace, settings.calibration)
    texts = measured_texts(settings.measured, measured)
    cost = measure(workspace.open_decoder, workspace.compute, windows.seq_len, windows.count, texts=texts)
    return SweepBasis(workspace, settings, cost, windows, measured)


def foresee(basis: SweepBasis, planned: Sequence[PlannedPoint], *, metric: Metric) -> SweepCost:
    """What all points are expected to take. It is a rough figure."""
    cost, settings = basis.cost, basis.settings
    preparing = calibration_steps(cost, basis.windows)
    most = max((len(point.removed) for point in planned), default=0)
    if most:
        search = RedundancySettings(metric=metric)
        preparing += search_estimate(basis.workspace, cost, basis.windows, search, most)
    dense = bench_steps(cost, {DENSE: cost.sizes}, settings.measured, basis.measured, basis.workspace.compute)
    at_once = points_at_once(settings, basis.workspace.compute)
    alone = basis if at_once == 1 else replace(basis, cost=replace(cost, processes=1))
    points = {point.name: _part(together(point.name, _point_steps(alone, point)), at_once) for point in planned}
    return SweepCost(tuple(preparing), together("dense model, measured", dense), points, at_once)


def _part(point: Estimate, at_once: int) -> Estimate:
    """What a process takes for a point on the average, where each makes one of ``at_once`` points by itself."""
    seconds = None if point.seconds is None else point.seconds / at_once
    return replace(point, read=point.read // at_once, seconds=seconds)


def _point_steps(basis: SweepBasis, point: PlannedPoint) -> list[Estimate]:
    """Make a point's checkpoint, and measure it beside the dense model."""
    workspace, settings, cost = basis.workspace, basis.settings, basis.cost
    made = cost.sizes.without(point.removed)
    if point.pattern is None:
        steps = removal_steps(
            workspace, cost, point.removed, windows=basis.windows.count, heal=Heal.NONE, verify=settings.verify
        )
    else:
        pruning = PruningSettings(pattern=point.pattern, method=settings.method, verify=settings.verify)
        steps = pruning_steps(
            workspace,
            cost,
            made,
            pruning,
            windows=basis.windows.count,
            blocks=made.depth,
            last=made.depth - 1,
        )
    if not settings.keep:
        source = made.stored if point.removed and point.pattern is not None else 0
        steps = [replace(one, kept=0, disk=one.disk + source if one.disk else 0) for one in steps]
    subjects = {point.name: made, DENSE: cost.sizes}
    return [*steps, *bench_steps(cost, subjects, settings.measured, basis.measured, workspace.compute, known=DENSE)]


def require_room(folder: Path, needed: int, *, keep: bool) -> None:
    """Refuse a sweep whose checkpoints do not fit on the disk, before anything is made.

    Raises:
        LlmpruneError: fewer than ``needed`` bytes are free.
    """
    free = free_space(folder)
    if free < needed:
        hint = "type `keep=False`, or" if keep else "make room, or type"
        raise LlmpruneError(
            f"The sweep's checkpoints take up to {format_size(needed)}, and the disk that holds "
            f"{existing_folder(folder)} has {format_size(free)} left; {hint} `run=OTHER` on another disk."
        )


def announcement(planned: Sequence[PlannedPoint], cost: SweepCost, *, keep: bool, dense: bool) -> str:
    """The number of points and their expected cost, in words."""
    kinds = [
        (sum(point.pattern is None for point in planned), "by blocks"),
        (sum(not point.removed for point in planned), "by zeros"),
        (sum(bool(point.removed) and point.pattern is not None for point in planned), "by both"),
    ]
    said = ", ".join(f"{count} {what}" for count, what in kinds if count)
    preparing = together("", cost.preparing).seconds
    rest = together("", [*([] if dense else [cost.dense]), *(cost.points[point.name] for point in planned)]).seconds
    count = f"{len(planned)} point{'s' * (len(planned) != 1)} to make and measure ({said})"
    count += f", {cost.at_once} at a time" if cost.at_once > 1 else ""
    fate = "up to" if keep else "at most, each deleted once it is measured,"
    time = "a time that is not known" if preparing is None or rest is None else spell_seconds(preparing + rest)
    first = "" if preparing is None else f", of which calibration and search {spell_seconds(preparing)}"
    room = f"{fate} {format_size(cost.disk)} of disk"
    return f"{count}: about {time}{first}, and {room}. A rough figure; each point corrects it."
