"""Reads what a run directory holds for its report, and leaves out what is outdated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmprune.artifacts.activations import MANIFEST, CalibrationManifest
from llmprune.artifacts.records.bench import BenchResult, ModelResult
from llmprune.artifacts.records.command_line import spell_command
from llmprune.artifacts.records.expert_importance import ExpertImportance
from llmprune.artifacts.records.generations import Generations
from llmprune.artifacts.records.importance import Importance
from llmprune.artifacts.records.provenance import ModelIdentity
from llmprune.artifacts.records.pruning import RECORD_NAME, PruningRecord
from llmprune.artifacts.records.sweep import SweepResult
from llmprune.artifacts.run import RunDirectory
from llmprune.errors import ArtifactError
from llmprune.report.contents import Checkpoint, Measurement, RunContents

_LOST = "run.json is gone, so nothing tells which checkpoints were made in this run."


def read_contents(run: RunDirectory) -> RunContents:
    """Everything in a run directory that a report shows.

    Raises:
        ArtifactError: there is nothing, artifacts of several models, or one that cannot be read or is of
            another schema.
    """
    record = run.record()
    calibration = CalibrationManifest.read(run.calibration / MANIFEST) if run.calibration.exists() else None
    importance = Importance.read(run.importance) if run.importance.exists() else None
    experts = ExpertImportance.read(run.experts) if run.experts.exists() else None
    sweep = SweepResult.read(run.sweep) if run.sweep.exists() else None
    generations = Generations.read(run.generations) if run.generations.exists() else None
    checkpoints = tuple(_checkpoints(run))
    measured_from = [calibration, importance, experts, sweep]
    dense = next((one.model for one in measured_from if one is not None), None)
    measurements, outdated = _measurements(run, checkpoints, dense)
    if not (calibration or importance or experts or sweep or generations or checkpoints or measurements):
        raise ArtifactError(
            f"{run.path} holds nothing to report yet; type: llmprune quickstart, or "
            f"{spell_command('calibrate', 'MODEL', run=str(run.path))}"
        )
    contents = RunContents(
        run=run.path.resolve().name,
        model=record.name if record else _named_by(measurements),
        calibration=calibration,
        importance=importance,
        experts=experts,
        checkpoints=checkpoints,
        measurements=measurements,
        sweep=sweep,
        generations=generations,
    )
    _require_one_model(run, contents)
    lost = (_LOST,) if record is None and run.made_here() else ()
    return contents.with_remarks((*lost, *outdated, *_unlike_benchmarks(run, sweep), *_remarks(contents)))


def _unlike_benchmarks(run: RunDirectory, sweep: SweepResult | None) -> Iterator[str]:
    """A remark on each model of a sweep whose benchmark is not there as it was noted."""
    for point in (sweep.dense, *sweep.points) if sweep is not None else ():
        if point is not None and not point.is_measured_in(run.path):
            yield f"{point.bench} is not the benchmark of '{point.name}' any more; the same sweep measures it again."


def _checkpoints(run: RunDirectory) -> Iterator[Checkpoint]:
    for path in run.own_checkpoints():
        yield Checkpoint(path.name, PruningRecord.read(path / RECORD_NAME))


def _measurements(
    run: RunDirectory, checkpoints: Sequence[Checkpoint], dense: ModelIdentity | None
) -> tuple[tuple[Measurement, ...], tuple[str, ...]]:
    """Benchmarks, oldest first, and a remark on each that is of other weights than a model of the run has."""
    paths = sorted(run.bench.glob("*.json")) if run.bench.is_dir() else []
    kept, remarks = list[Measurement](), list[str]()
    for one in (Measurement(path.name, BenchResult.read(path)) for path in paths):
        models = [model for model in (one.result.model, one.result.baseline) if model is not None]
        others = [model.name for model in models if not _is_of(model, one.result.created, checkpoints, dense)]
        if (same := next((other.file for other in kept if other.result == one.result), None)) is not None:
            remarks.append(f"bench/{one.file} is left out: it is a copy of bench/{same}.")
        elif others:
            remarks.append(f"bench/{one.file} is left out: it measured other weights than {others[0]} has now.")
        else:
            kept.append(one)
    return tuple(kept), tuple(remarks)


def _is_of(measured: ModelResult, created: str, checkpoints: Sequence[Checkpoint], dense: ModelIdentity | None) -> bool:
    """Whether what was measured is the model of the run that its name tells. One that the run does not know may be.

    Where a file is from before weights were kept, time tells.
    """
    record = next((one.record for one in checkpoints if one.name == measured.name), None)
    if record is None:
        known = dense.fingerprint if dense is not None and dense.name == measured.name else None
        return known is None or measured.weights is None or measured.weights.fingerprint == known
    if measured.weights is None or record.written is None:
        return created >= record.created
    return measured.weights == record.written.identity


def _named_by(measurements: Sequence[Measurement]) -> str:
    """The name of the dense model in a run that holds only benchmarks."""
    results = [one.result for one in reversed(measurements)]
    return next((one.baseline.name for one in results if one.baseline), results[0].model.name if results else "")


def _identities(contents: RunContents) -> Iterator[tuple[str, ModelIdentity]]:
    """The dense model that each artifact was made from."""
    if contents.calibration is not None:
        yield f"calibration/{MANIFEST}", contents.calibration.model
    if contents.importance is not None:
        yield "importance.json", contents.importance.model
    if contents.experts is not None:
        yield "experts.json", contents.experts.model
    for one in contents.checkpoints:
        record = one.record
        while record.source_record is not None:
            record = record.source_record
        yield f"{one.name}/{RECORD_NAME}", record.source
    if contents.sweep is not None:
        yield "sweep.json", contents.sweep.model


def _require_one_model(run: RunDirectory, contents: RunContents) -> None:
    """Check that all artifacts are of one model, so that their numbers compare.

    Raises:
        ArtifactError: they are of two models.
    """
    known = list(_identities(contents))
    for file, model in known[1:]:
        if model.fingerprint != known[0][1].fingerprint:
            raise ArtifactError(
                f"{run.path} holds artifacts of two models: {known[0][0]} is of {known[0][1].name} "
                f"(fingerprint {known[0][1].fingerprint[:12]}), {file} of {model.name} ({model.fingerprint[:12]}); "
                "keep each model in a run directory of its own (`run`)."
            )


def _remarks(contents: RunContents) -> Iterator[str]:
    calibration, importance, generations = contents.calibration, contents.importance, contents.generations
    if calibration and importance and calibration.windows_fingerprint != importance.windows_fingerprint:
        yield "importance.json was made on another calibration than the one in the run now."
    for one in contents.checkpoints if generations else ():
        assert generations is not None
        if one.name in {known.name for known in generations.models} and generations.created < one.record.created:
            yield f"samples.json is older than {one.name}: that checkpoint was made again later."
