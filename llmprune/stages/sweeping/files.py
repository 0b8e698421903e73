"""The sweep's own files: what an earlier command left."""

from __future__ import annotations

from pathlib import Path

from llmprune.artifacts.records.protocols import Protocols
from llmprune.artifacts.records.sweep import SweepPruning, SweepResult
from llmprune.artifacts.run import RunDirectory
from llmprune.errors import ArtifactError, ChangedError
from llmprune.stages.benchmark import without_lost
from llmprune.stages.common.progress import Progress
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.output.own_folder import tidy


def as_measured(workspace: Workspace, *, force: bool) -> Workspace:
    """The workspace with the dtype of the run's sweep, if there is one that is continued.

    Raises:
        ArtifactError: the sweep's file cannot be read, and ``force`` is not set.
    """
    path = workspace.run.sweep
    return workspace if force or not path.exists() else workspace.going_on(path, SweepResult.read(path).measuring.dtype)


def read_sweep(workspace: Workspace, measuring: Protocols, *, force: bool) -> SweepResult | None:
    """The run's sweep, if there is one that was measured the same way; None if a new one begins.

    Raises:
        ArtifactError: it was measured in another way, or is another model's, and ``force`` is not set.
        OutputExistsError: it is a link, or no file of llmprune's.
    """
    path = workspace.run.sweep
    if force or not path.exists():
        SweepResult.require_place(path)
        return None
    known = SweepResult.read(path)
    SweepResult.require_place(path)
    if known.model.fingerprint != workspace.model.fingerprint:
        raise _other(path, f"is a sweep of {known.model.name}, whose config or weights differ now")
    if known.measuring != measuring:
        raise _other(path, f"was measured otherwise ({_measured(known.measuring)})")
    return without_lost(known, workspace.run, workspace.progress)


def require_points_intact(workspace: Workspace, known: SweepResult | None) -> None:
    """See that the checkpoints of finished points, as far as they are there, are what was written and measured.

    Raises:
        ArtifactError: one is not.
    """
    for point in known.points if known is not None else ():
        directory = workspace.run.located(point.checkpoint) if point.checkpoint is not None else None
        if directory is None or not directory.is_dir():
            continue
        try:
            workspace.intact.require(directory, workspace.progress)
        except ChangedError as error:
            raise ArtifactError(
                f"{error.found}; delete that folder, so that the sweep goes on without it, or type `check=False`."
            ) from error


def require_same_pruning(workspace: Workspace, known: SweepResult, pruning: SweepPruning) -> None:
    """Check that an earlier sweep's points were pruned with the same settings.

    Raises:
        ArtifactError: they were not.
    """
    old = known.pruning
    if old != pruning:
        raise _other(
            workspace.run.sweep,
            f"was pruned otherwise ({old.method}, {old.metric}, on {old.windows} x {old.seq_len} tokens of "
            f"{old.corpus.name})",
        )


def _other(path: Path, found: str) -> ArtifactError:
    return ArtifactError(f"{path} {found}; type `force=True` to start anew, or `run=OTHER` to keep both.")


def _measured(measuring: Protocols) -> str:
    texts = [f"{one.windows} windows of {one.seq_len} tokens of {one.corpus.name}" for one in measuring.perplexity]
    speed = measuring.speed
    timed = "no speed" if speed is None else f"batch {','.join(map(str, speed.batch))}, {speed.new_tokens} new tokens"
    asked = [] if measuring.tasks is None else [f"tasks {','.join(measuring.tasks.tasks)}"]
    return ", ".join([*texts, *asked, timed, measuring.dtype])


def clear_unless_same(run: RunDirectory, pruning: SweepPruning, progress: Progress) -> None:
    """Before a new sweep, delete the checkpoints of an earlier one, unless they were pruned with the same settings."""
    try:
        same = SweepResult.read(run.sweep).pruning == pruning
    except ArtifactError:
        same = False  # no sweep, or one that cannot be read: its checkpoints cannot be used
    if not same:
        tidy(run.sweep_folder, keep=(), progress=progress)
