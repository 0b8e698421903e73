"""``llmprune bench``: quality and speed of a pruned model beside its source, under stated protocols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from llmprune.artifacts.files.disk_space import explain_full_disk
from llmprune.artifacts.records.bench import BenchResult, Machine, ModelResult, Protocols, TaskProtocol
from llmprune.artifacts.run import RunDirectory
from llmprune.errors import TargetError
from llmprune.evaluation.energy import EnergyMeter, find_energy_meter
from llmprune.evaluation.machine import attention_kernel, describe_machine
from llmprune.evaluation.zero_shot import ZeroShotTasks
from llmprune.models.compute import Compute, dtype_name
from llmprune.models.loading import LOADING_ROOM
from llmprune.stages.benchmark.gate import require_metrics
from llmprune.stages.benchmark.metrics import collect_metrics, metric_names
from llmprune.stages.benchmark.opened import Loaded, Streamed
from llmprune.stages.benchmark.perplexity import measure_perplexity, perplexity_protocol, read_texts
from llmprune.stages.benchmark.settings import BenchSettings
from llmprune.stages.benchmark.speed import measure_speed, speed_protocol
from llmprune.stages.benchmark.subjects import Subject, choose_subjects
from llmprune.stages.benchmark.tasks import measure_tasks, open_asked_tasks, task_differences
from llmprune.stages.common.progress import Progress
from llmprune.text.windows import TokenWindows


@dataclass(frozen=True)
class _Measurements:
    """What will be measured, once all that could be refused has been looked at.

    Attributes:
        settings: as asked for.
        dtype: what both models are computed in.
        prefill: tokens of the long prompt.
        texts: windows of every text.
        tasks: zero-shot tasks, and how they are asked; None: there are none.
        meter: of energy.
        streamed: names of the models that are run block by block, since memory has no room for them.
    """

    settings: BenchSettings
    dtype: torch.dtype
    prefill: int
    texts: list[TokenWindows]
    tasks: tuple[ZeroShotTasks, TaskProtocol] | None
    meter: EnergyMeter
    streamed: frozenset[str]


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
            protocols are the same.

    Returns:
        The result, and its file. Conditions that hold are raised by ``gate.refuse_failed``.

    Raises:
        ModelError: nothing to measure, or a model cannot be loaded.
        CheckpointError: a model's weights are not whole, or not what its config says.
        CorpusError: a text cannot be had, or is too short.
        TaskError: a task cannot be had.
        TargetError: an option out of range, or a condition on what is not measured.
        NumericalError: a model computes NaN or infinity.
        ArtifactError: the run directory cannot be written.
        LlmpruneError: the disk is full.
    """
    subjects = choose_subjects(
        run, model, baseline, compute=compute, progress=progress, trust_remote_code=trust_remote_code
    )
    run.require_writable()
    result = measure(subjects, settings, compute=compute, progress=progress, dense=dense)
    return result, save_result(result, run.bench)


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
    wanted = _check(subjects, settings, compute, progress)
    known = [None, _known_quality(wanted, dense, compute)]
    results: list[ModelResult] = []
    kernels: list[str] = []
    loaded: list[Loaded] = []
    for subject, quality in zip(subjects, known, strict=False):
        if quality is not None and not settings.speed:
            results.append(_with(subject.described(), perplexity=quality.perplexity, tasks=quality.tasks))
            continue
        whole = subject.name not in wanted.streamed
        one = subject.open(wanted.dtype, whole=whole, compute=compute, progress=progress)
        results.append(_measure_quality(one, wanted, quality, compute, progress))
        kernels.append(attention_kernel(one.model))
        if settings.speed and isinstance(one, Loaded):
            loaded.append(one)
        del one  # before the next one is loaded: only for speed both are in memory
    if settings.speed:
        speeds = measure_speed(loaded, settings, prefill=wanted.prefill, meter=wanted.meter, progress=progress)
        results = [_with(one, **vars(found)) for one, found in zip(results, speeds, strict=True)]
    return _result(wanted, results, describe_machine(compute.device, kernels), compute)


def check_bench(
    run: RunDirectory,
    *,
    model: str,
    settings: BenchSettings,
    compute: Compute,
    progress: Progress,
    trust_remote_code: bool = False,
) -> Protocols:
    """Refuse now what ``bench`` of a model, and of what is pruned from it, would refuse after hours of pruning.

    Returns:
        How they will be measured.

    Raises:
        LlmpruneError: as ``bench`` does.
    """
    (subject, *_) = choose_subjects(
        run, model, None, compute=compute, progress=progress, trust_remote_code=trust_remote_code
    )
    return _protocols(_check([subject], settings, compute, progress), compute)


def _protocols(wanted: _Measurements, compute: Compute) -> Protocols:
    settings = wanted.settings
    return Protocols(
        perplexity=tuple(perplexity_protocol(windows) for windows in wanted.texts),
        tasks=wanted.tasks[1] if wanted.tasks else None,
        speed=speed_protocol(settings, prefill=wanted.prefill, meter=wanted.meter) if settings.speed else None,
        dtype=dtype_name(wanted.dtype),
        device=str(compute.device),
    )


def _check(subjects: Sequence[Subject], settings: BenchSettings, compute: Compute, progress: Progress) -> _Measurements:
    """Check everything that may be wrong before the first model is loaded."""
    seq_len, prefill = settings.lengths(min(subject.positions for subject in subjects))
    texts = read_texts(subjects, settings, seq_len=seq_len, progress=progress)
    tasks = open_asked_tasks(subjects, settings)
    meter = find_energy_meter(compute.device)
    dtype = compute.dtype or subjects[-1].dtype()
    streamed = _streamed(subjects, settings, dtype, compute)
    names = metric_names(
        texts=[windows.identity().name for windows in texts],
        tasks=tasks[0].metrics if tasks else (),
        batch=settings.batch if settings.speed else (),
        repeats=settings.repeats,
        energy=bool(meter.counters),
        loaded=subjects[0].needed_bytes(dtype) > 0 and subjects[0].name not in streamed,
        compared=len(subjects) > 1,
    )
    require_metrics(settings.conditions, names)
    return _Measurements(settings, dtype, prefill, texts, tasks, meter, streamed)


def _streamed(
    subjects: Sequence[Subject], settings: BenchSettings, dtype: torch.dtype, compute: Compute
) -> frozenset[str]:
    """Names of the models that memory has no room for. Tasks and speed need whole models, and speed all of them.

    Raises:
        TargetError: there is no room for what has to be in memory.
    """
    sizes, free = {subject.name: subject.needed_bytes(dtype) for subject in subjects}, compute.free_bytes()
    if not settings.speed and not settings.tasks:
        return frozenset(name for name, size in sizes.items() if LOADING_ROOM * size > free)
    largest = max(sizes, key=lambda name: sizes[name])
    together = sizes if settings.speed else {largest: sizes[largest]}
    if (needed := sum(together.values())) > free:
        without = "`speed=False` and no `tasks`" if settings.tasks else "`speed=False`"
        raise TargetError(
            f"{needed / 1e9:.3g} GB of memory are needed for {' beside '.join(together)} in {dtype_name(dtype)}, and "
            f"{free / 1e9:.3g} GB are free; type {without}: perplexity is then measured block by block."
        )
    return frozenset()


def _known_quality(wanted: _Measurements, dense: BenchResult | None, compute: Compute) -> ModelResult | None:
    """What an earlier benchmark of the baseline measured under the same protocols; None: nothing."""
    protocols = _protocols(wanted, compute)
    of_quality = ("perplexity", "tasks", "dtype", "device")
    same = dense is not None and all(getattr(dense, name) == getattr(protocols, name) for name in of_quality)
    return dense.model if dense is not None and same else None


def _measure_quality(
    one: Loaded | Streamed,
    wanted: _Measurements,
    known: ModelResult | None,
    compute: Compute,
    progress: Progress,
) -> ModelResult:
    """Perplexity and accuracy of a model, unless they are known."""
    result = _with(one.subject.described(), load_seconds=one.seconds)
    if known is not None:
        return _with(result, perplexity=known.perplexity, tasks=known.tasks)
    result = _with(result, perplexity=measure_perplexity(one, wanted.texts, compute=compute, progress=progress))
    if wanted.tasks is not None and isinstance(one, Loaded):
        result = _with(result, tasks=measure_tasks(one, *wanted.tasks, compute=compute, progress=progress))
    return result


def _with(result: ModelResult, **measured: object) -> ModelResult:
    return result.model_copy(update=measured)


def _result(wanted: _Measurements, measured: Sequence[ModelResult], machine: Machine, compute: Compute) -> BenchResult:
    """What was measured, beside its protocols, and checked against the conditions."""
    model, baseline = measured[0], measured[1] if len(measured) > 1 else None
    metrics = collect_metrics(model, baseline)
    protocols = _protocols(wanted, compute)
    return BenchResult(
        machine=machine,
        device=protocols.device,
        dtype=protocols.dtype,
        perplexity=protocols.perplexity,
        tasks=protocols.tasks,
        speed=protocols.speed,
        model=model,
        baseline=baseline,
        differences=task_differences(model, baseline),
        metrics=metrics,
        gate=tuple(condition.check(metrics) for condition in wanted.settings.conditions),
    )


def save_result(result: BenchResult, folder: Path) -> Path:
    """Write a result under the time that it is; returns where.

    Raises:
        LlmpruneError: the disk is full.
    """
    with explain_full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.json"
    result.write(path)
    return path
