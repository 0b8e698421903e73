"""Who makes a sweep's points: all ranks together one after the other, or each rank one at a time by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from llmprune.artifacts.files.locks import granted
from llmprune.artifacts.records.sweep import SkippedPoint, SweepPoint
from llmprune.models.compute import Compute
from llmprune.ranks.apart import by_itself
from llmprune.ranks.group import Placed
from llmprune.stages.benchmark import benched_before
from llmprune.stages.common.progress import Progress, Silent
from llmprune.stages.sweeping.plan import PlannedPoint
from llmprune.stages.sweeping.points import SweepContext, try_point
from llmprune.stages.sweeping.settings import SweepSettings


@dataclass(frozen=True)
class Task:
    """A point to be made, and the file that it is measured into."""

    point: PlannedPoint
    file: str


@dataclass(frozen=True)
class PointMaker:
    """One rank, which makes points by itself.

    Attributes:
        context: with this rank's device.
        rank: its number.
    """

    context: SweepContext
    rank: int

    def make(self, tasks: Sequence[Task], dense: str) -> SweepPoint | SkippedPoint | None:
        """Make this rank's point of several, beside the dense model's benchmark; None if there is none for it."""
        if self.rank >= len(tasks):
            return None
        workspace, task = self.context.workspace, tasks[self.rank]
        with granted(workspace.run.path), by_itself() as ranks:  # rank 0 holds the run for all
            alone = replace(workspace, compute=replace(workspace.compute, ranks=ranks))
            context = replace(self.context, workspace=alone)
            return try_point(context, task.point, benched_before(workspace.run, dense), task.file)


@dataclass(frozen=True)
class Makers:
    """Those who make the points.

    Attributes:
        context: of the sweep.
        spread: a maker on every rank; None: all make one point together.
    """

    context: SweepContext
    spread: Placed[PointMaker] | None

    def next_points(self, points: Sequence[PlannedPoint]) -> list[PlannedPoint]:
        """Which of the points that are missing are made next: at the same time, none from the same blocks."""
        chosen: dict[object, PlannedPoint] = {}
        for point in points:
            chosen.setdefault(point.target or point.name, point)
        return list(chosen.values())[: points_at_once(self.context.settings, self.context.workspace.compute)]

    def make(self, tasks: Sequence[Task], dense: str) -> list[SweepPoint | SkippedPoint]:
        """Make them."""
        if self.spread is None:
            known = benched_before(self.context.workspace.run, dense)
            return [try_point(self.context, task.point, known, task.file) for task in tasks]
        return [made for made in self.spread.call("make", tasks, dense) if made is not None]


def points_at_once(settings: SweepSettings, compute: Compute) -> int:
    """How many points are made at the same time: one a rank, and one in all where speed is measured."""
    timed = settings.measured.speed or settings.measured.draft
    return 1 if timed else compute.ranks.size


@contextmanager
def opened_makers(context: SweepContext) -> Iterator[Makers]:
    """Makers on all ranks, if each is to make points by itself.

    Raises:
        SharedFolderError: a rank does not see the run directory.
    """
    workspace = context.workspace
    if points_at_once(context.settings, workspace.compute) == 1:
        yield Makers(context, None)
        return
    workspace.require_shared()
    silent = replace(context, workspace=replace(workspace, progress=Silent()))
    with workspace.compute.ranks.place(_open_maker, silent, own={"progress": workspace.progress}) as spread:
        yield Makers(context, spread)


def _open_maker(context: SweepContext, progress: Progress | None = None) -> PointMaker:
    workspace, compute = context.workspace, context.workspace.compute
    workspace = replace(workspace, compute=compute.here(), progress=progress or workspace.progress)
    return PointMaker(replace(context, workspace=workspace), compute.ranks.rank)
