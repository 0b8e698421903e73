"""Benchmarks of several models of one run: each measured once into a file that was named before, the dense one kept."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TypeVar

from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.budget import BudgetResult
from llmprune.artifacts.records.protocols import Protocols
from llmprune.artifacts.records.sweep import SweepResult
from llmprune.artifacts.run import RunDirectory
from llmprune.stages.benchmark.checked import check
from llmprune.stages.benchmark.settings import BenchSettings
from llmprune.stages.benchmark.stage import bench
from llmprune.stages.benchmark.subjects import CheckpointSubject, choose_subjects
from llmprune.stages.common.progress import Progress
from llmprune.stages.common.workspace import Workspace

MeasuredModels = TypeVar("MeasuredModels", SweepResult, BudgetResult)


@dataclass(frozen=True)
class Benched:
    """A model that was measured.

    Attributes:
        result: what was measured.
        path: of its file in the run directory.
        seconds: that it took.
    """

    result: BenchResult
    path: str
    seconds: float


def dense_subjects(workspace: Workspace, *, makes_files: bool = True) -> list[CheckpointSubject]:
    """The dense model of a run; see ``choose_subjects``."""
    return choose_subjects(
        workspace.run,
        workspace.record.model,
        None,
        compute=workspace.compute,
        progress=workspace.progress,
        trust_remote_code=workspace.trust_remote_code,
        makes_files=makes_files,
        intact=workspace.intact,
    )


def check_bench(workspace: Workspace, settings: BenchSettings) -> Protocols:
    """Refuse now what ``bench`` of a run's model, and of what is pruned from it, would refuse after hours of pruning.

    Returns:
        How they will be measured.

    Raises:
        LlmpruneError: as ``bench`` does.
    """
    (subject, *_) = dense_subjects(workspace)
    return check([subject], settings, workspace.compute, workspace.progress).protocols(workspace.compute)


def bench_in_run(
    workspace: Workspace, model: str, settings: BenchSettings, *, dense: BenchResult | None, file: str
) -> Benched:
    """Measure a model of a run beside its dense one.

    Args:
        workspace: run directory and dense model.
        model: path of the model; the dense one is measured alone.
        settings: what to measure.
        dense: an earlier benchmark of the dense model, see ``bench``.
        file: name of the file.

    Raises:
        LlmpruneError: as ``bench`` does.
    """
    started = time.monotonic()
    found, path = bench(
        workspace.run,
        model=model,
        baseline=None,
        settings=settings,
        compute=workspace.compute,
        progress=workspace.progress,
        trust_remote_code=workspace.trust_remote_code,
        dense=dense,
        file=file,
        intact=workspace.intact,
    )
    return Benched(found, str(path.relative_to(workspace.run.path)), time.monotonic() - started)


def without_lost(measured: MeasuredModels, run: RunDirectory, progress: Progress) -> MeasuredModels:
    """What was measured, without the models whose benchmark is not there any more as it was noted.

    They are said, and measured again.
    """
    lost = [one for one in (measured.dense, *measured.points) if one is not None and not one.is_measured_in(run.path)]
    for one in lost:
        progress.say(f"{run.path / one.bench} is not the benchmark of '{one.name}' any more, which is measured again.")
    points = tuple(point for point in measured.points if point not in lost)
    return measured.model_copy(update={"dense": None if measured.dense in lost else measured.dense, "points": points})


def benched_before(run: RunDirectory, path: str) -> BenchResult | None:
    """A benchmark of a run; None if its file is missing or unreadable. Then it is measured again beside the others."""
    return BenchResult.found(run.path / path)
