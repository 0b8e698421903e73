"""``llmprune bench``: quality and speed of a pruned model beside its source, under stated protocols."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from llmprune.artifacts.files.disk_space import explain_full_disk
from llmprune.artifacts.records.bench import BenchResult, Machine, ModelResult
from llmprune.artifacts.run import RunDirectory
from llmprune.evaluation.machine import attention_kernel, describe_machine
from llmprune.models.compute import Compute
from llmprune.stages.benchmark.agreement import dense_texts, measure_agreement, measure_draft
from llmprune.stages.benchmark.checked import Measurements, check
from llmprune.stages.benchmark.metrics import collect_metrics
from llmprune.stages.benchmark.opened import Loaded, Streamed
from llmprune.stages.benchmark.perplexity import measure_perplexity
from llmprune.stages.benchmark.settings import BenchSettings
from llmprune.stages.benchmark.speed import measure_speed
from llmprune.stages.benchmark.subjects import Subject, choose_subjects
from llmprune.stages.benchmark.tasks import measure_tasks, task_differences
from llmprune.stages.benchmark.together import opened_by_all
from llmprune.stages.common.intact import Intact
from llmprune.stages.common.progress import Progress


def bench(
    run: RunDirectory,
    *,
    model: str | None,
    baseline: str | None,
    settings: BenchSettings,
    compute: Compute,
    progress: Progress,
    trust_remote_code: bool = False,
    dense: BenchResult | None = None,
    file: str | None = None,
    intact: Intact | None = None,
) -> tuple[BenchResult, Path]:
    """Measure a model and its source, and write the result under ``bench/``.

    Args:
        run: where results go, and where the defaults come from.
        model: what to measure; None: the run's newest pruned checkpoint.
        baseline: what to compare it with; None: the run's dense model, if it is another.
        settings: what to measure.
        compute: device and dtype; without a dtype, the one the baseline is stored in, for both.
        progress: who listens.
        trust_remote_code: let the checkpoints' own Python files run.
        dense: an earlier benchmark of the baseline alone. Its perplexities and accuracies are taken where the
            protocols and the weights are the same.
        file: name of the result's file; None: the time at the end. An older result of that name is replaced.
        intact: what is checked of models that llmprune wrote; None: everything.

    Returns:
        The result, and its file. Conditions that hold are raised by ``gate.refuse_failed``.

    Raises:
        ModelError: nothing to measure, or a model cannot be loaded.
        CheckpointError: a model's weights are not whole, not what its config says, or not what llmprune wrote.
        CorpusError: a text cannot be had, or is too short.
        TaskError: a task cannot be had.
        TargetError: an option out of range, or a condition on what is not measured.
        NumericalError: a model computes NaN or infinity.
        ArtifactError: the run directory cannot be written.
        LlmpruneError: the disk is full.
    """
    subjects = choose_subjects(
        run,
        model,
        baseline,
        compute=compute,
        progress=progress,
        trust_remote_code=trust_remote_code,
        intact=intact or Intact(),
    )
    run.require_writable()
    result = measure(subjects, settings, compute=compute, progress=progress, dense=dense)
    return result, save_result(result, run.bench, file)


def measure(
    subjects: Sequence[Subject],
    settings: BenchSettings,
    *,
    compute: Compute,
    progress: Progress,
    dense: BenchResult | None = None,
) -> BenchResult:
    """Measure a model, and its baseline beside it; nothing is written.

    Args:
        subjects: the model, then the baseline if there is one.
        settings: what to measure.
        compute: device and dtype; without a dtype, the one the last subject is stored in, for both.
        progress: who listens.
        dense: as in ``bench``.

    Raises:
        LlmpruneError: as ``bench`` does.
    """
    wanted = check(subjects, settings, compute, progress)
    known = [None, *(_known_quality(one, wanted, dense, compute) for one in subjects[1:])]
    together = settings.speed or settings.draft
    results: list[ModelResult] = []
    kernels: list[str] = []
    loaded: list[Loaded] = []
    for subject, quality in reversed(
        list(zip(subjects, known, strict=False))
    ):  # the baseline first: the other is held against it
        if quality is not None and not together and wanted.agreement is None:
            results.append(_with(subject.described(), perplexity=quality.perplexity, tasks=quality.tasks))
            continue
        whole = subject.name not in wanted.streamed
        # Spread over devices a model writes; what it computes of a text is measured on one of them, block by block.
        one = subject.open(wanted.dtype, whole=whole and not compute.spread, compute=compute, progress=progress)
        found = _measure_quality(one, wanted, quality, compute, progress)
        if compute.spread and whole and (together or wanted.agreement is not None):
            one = subject.open(wanted.dtype, whole=True, compute=compute, progress=progress)
            found = _with(found, load_seconds=one.seconds)
        if wanted.agreement is not None and isinstance(one, Loaded):
            found = _agreed(one, found, results[0] if results else None, wanted, compute, progress)
        results.append(found)
        kernels.append(attention_kernel(one.model))
        if together and isinstance(one, Loaded):
            loaded.append(one)
        del one  # before the next one is loaded: only for speed both are in memory
    if settings.draft and wanted.agreement is not None:
        results[1] = _drafted(loaded, results, wanted, progress)
    results.reverse()
    if settings.speed:
        speeds = measure_speed(loaded[::-1], settings, prefill=wanted.prefill, meter=wanted.meter, progress=progress)
        results = [_with(one, **vars(found)) for one, found in zip(results, speeds, strict=True)]
    return _result(wanted, results, describe_machine(compute.device, kernels), compute)


def _agreed(
    one: Loaded,
    found: ModelResult,
    baseline: ModelResult | None,
    wanted: Measurements,
    compute: Compute,
    progress: Progress,
) -> ModelResult:
    """What the dense model writes, or how often the other chooses the same."""
    assert wanted.agreement is not None
    if baseline is None:
        texts = dense_texts(one, wanted.agreement, wanted.texts, compute=compute, progress=progress)
        return _with(found, greedy=texts)
    agreement = measure_agreement(one, baseline.greedy, wanted.agreement, compute=compute, progress=progress)
    return _with(found, agreement=agreement)


def _drafted(
    loaded: Sequence[Loaded], results: Sequence[ModelResult], wanted: Measurements, progress: Progress
) -> ModelResult:
    """The model's result with how it does as a draft. Both lists have the baseline first."""
    assert wanted.agreement is not None
    (dense, one), (baseline, found) = loaded, results
    draft = measure_draft(dense, one, baseline.greedy, wanted.agreement, settings=wanted.settings, progress=progress)
    return _with(found, draft=draft)


def _known_quality(
    baseline: Subject, wanted: Measurements, dense: BenchResult | None, compute: Compute
) -> ModelResult | None:
    """What an earlier benchmark of the baseline's weights measured under the same protocols; None: nothing."""
    protocols = wanted.protocols(compute)
    of_quality = ("perplexity", "tasks", "dtype", "device")
    if dense is None or dense.model.weights is None or dense.model.weights != baseline.weights:
        return None
    same = all(getattr(dense, name) == getattr(protocols, name) for name in of_quality)
    return dense.model if same else None


def _measure_quality(
    one: Loaded | Streamed,
    wanted: Measurements,
    known: ModelResult | None,
    compute: Compute,
    progress: Progress,
) -> ModelResult:
    """Perplexity and accuracy of a model, unless they are known."""
    result = _with(one.subject.described(), load_seconds=one.seconds)
    if known is not None:
        return _with(result, perplexity=known.perplexity, tasks=known.tasks)
    if not wanted.texts and wanted.tasks is None:
        return result
    with opened_by_all(one, wanted.dtype, compute) as shares:
        result = _with(result, perplexity=measure_perplexity(shares, wanted.texts, progress=progress))
        if wanted.tasks is not None:
            result = _with(result, tasks=measure_tasks(shares, *wanted.tasks, compute=compute, progress=progress))
    return result


def _with(result: ModelResult, **measured: object) -> ModelResult:
    return result.model_copy(update=measured)


def _result(wanted: Measurements, measured: Sequence[ModelResult], machine: Machine, compute: Compute) -> BenchResult:
    """What was measured, beside its protocols, and checked against the conditions."""
    model, baseline = measured[0], measured[1] if len(measured) > 1 else None
    metrics = collect_metrics(model, baseline)
    protocols = wanted.protocols(compute)
    return BenchResult(
        machine=machine,
        device=protocols.device,
        dtype=protocols.dtype,
        perplexity=protocols.perplexity,
        tasks=protocols.tasks,
        speed=protocols.speed,
        agreement=protocols.agreement,
        model=model,
        baseline=baseline,
        differences=task_differences(model, baseline),
        metrics=metrics,
        gate=tuple(condition.check(metrics) for condition in wanted.settings.conditions),
    )


def result_name() -> str:
    """A name for the file of a result: the time that it is, so that results are in order."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.json"


def save_result(result: BenchResult, folder: Path, name: str | None = None) -> Path:
    """Write a result under a name, or the time that it is; returns where.

    Raises:
        LlmpruneError: the disk is full.
    """
    with explain_full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / (name or result_name())
    result.write(path)
    return path
