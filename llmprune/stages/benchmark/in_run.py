"""Benchmarks of several models of one run: each measured once into a file that was named before, the dense one kept."""

from __future__ import annotations

import time
from dataclasses import dataclass

from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.run import RunDirectory
from llmprune.errors import ArtifactError
from llmprune.stages.benchmark.settings import BenchSettings
from llmprune.stages.benchmark.stage import bench
from llmprune.stages.common.workspace import Workspace


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


def benched_before(run: RunDirectory, path: str) -> BenchResult | None:
    """A benchmark of a run; None if its file is missing or unreadable. Then it is measured again beside the others."""
    try:
        return BenchResult.read(run.path / path)
    except ArtifactError:
        return None
