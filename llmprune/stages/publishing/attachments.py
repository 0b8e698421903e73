"""What a run holds about one of its checkpoints: benchmarks, the importance file, the report, the mask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint
from llmprune.artifacts.files.digests import FileDigest
from llmprune.artifacts.masks.mask import MASK_NAME, write_mask
from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.provenance import WeightsIdentity
from llmprune.artifacts.records.pruning import PruningRecord
from llmprune.artifacts.run import RunDirectory
from llmprune.errors import ArtifactError
from llmprune.publishing.contents import LocalFile, require_publishable
from llmprune.publishing.history import steps
from llmprune.stages.common.progress import Progress

_REPORT = "report/index.html"


def run_of(directory: Path, run: RunDirectory) -> RunDirectory | None:
    """The run that made a checkpoint: the named one, or the directory that holds the checkpoint.

    Raises:
        ArtifactError: a run directory that cannot be read.
    """
    for place in (run, RunDirectory(directory.resolve().parent)):
        known = place.record()
        if known and any(place.located(made).resolve() == directory.resolve() for made in known.checkpoints):
            return place
    return None


def bench_results(
    run: RunDirectory | None, directory: Path, record: PruningRecord, weights: WeightsIdentity, progress: Progress
) -> dict[Path, BenchResult]:
    """The benchmarks of just these weights, oldest first.

    Files from before that was kept count where name and sizes match and they are newer than the checkpoint. One that
    cannot be read, for example of another version of llmprune, is left out, and that is said.

    Args:
        run: where they are looked for; None: there is none.
        directory: the checkpoint.
        record: its ``llmprune.json``.
        weights: its config and weights as they are now.
        progress: told of files that cannot be read.
    """
    found: dict[Path, BenchResult] = {}
    for path in sorted(run.bench.glob("*.json")) if run else []:
        try:
            result = BenchResult.read(path)
        except ArtifactError as error:
            progress.say(f"A benchmark is left out: {error}")
            continue
        model = result.model
        sizes = (model.num_blocks, model.num_parameters, model.weight_bytes)
        alike = sizes == (record.num_blocks, record.num_parameters, record.weight_bytes)
        alike &= model.name == directory.resolve().name and result.created >= record.created
        if model.weights == weights or (model.weights is None and alike):
            found[path] = result
    return found


def collect_artifacts(
    run: RunDirectory | None,
    checkpoint: Checkpoint,
    record: PruningRecord,
    bench: dict[Path, BenchResult],
    *,
    scratch: Path,
    progress: Progress,
) -> tuple[LocalFile, ...]:
    """What ``--include-artifacts`` publishes beside the checkpoint. Missing artifacts are listed in messages.

    Args:
        run: the run that made the checkpoint; None: not known.
        checkpoint: the opened checkpoint.
        record: its ``llmprune.json``.
        bench: its benchmarks.
        scratch: a directory for the mask file.
        progress: who listens.

    Raises:
        ArtifactError: an artifact holds what must not be published.
    """
    files = [*_importance(run, record), *(LocalFile(f"bench/{path.name}", path) for path in bench)]
    if run is not None and (run.path / _REPORT).is_file():
        files.append(LocalFile(_REPORT, run.path / _REPORT))
    for file in files:
        require_publishable(file)
    if zeroed := record.zeroed_tensors:
        progress.say("Reading the mask from the weights.")
        write_mask(checkpoint, zeroed, scratch / MASK_NAME, pattern=record.zeros_pattern)
        files.append(LocalFile(MASK_NAME, scratch / MASK_NAME))
    if run is None:
        progress.say("The run that made this checkpoint is not known; name it with `run` to publish what it measured.")
    for name, command in _missing({file.path for file in files}, record):
        progress.say(f"No {name} of this checkpoint was found; llmprune {command} makes one.")
    return tuple(files)


def _importance(run: RunDirectory | None, record: PruningRecord) -> Iterator[LocalFile]:
    """The importance files that decided which blocks or experts were removed; a later one is left out."""
    chosen = (one for step in steps(record) for one in (step.removal, step.experts) if one is not None)
    wanted = {one.importance for one in chosen} - {None}
    for path in (run.importance, run.experts) if run is not None else ():
        if path.is_file() and FileDigest.of_file(path).sha256 in wanted:
            yield LocalFile(path.name, path)


def _missing(names: set[str], record: PruningRecord) -> Iterator[tuple[str, str]]:
    if record.removal is not None and record.removal.importance is not None and "importance.json" not in names:
        yield "importance file", "verify-redundancy"
    if record.experts is not None and record.experts.importance is not None and "experts.json" not in names:
        yield "expert-importance file", "remove-experts"
    if not any(name.startswith("bench/") for name in names):
        yield "benchmark", "bench"
    if _REPORT not in names:
        yield "report page", "report"
