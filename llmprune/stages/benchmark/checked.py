"""What a benchmark will measure, once all that could be refused has been looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from llmprune.artifacts.records.agreement import AgreementProtocol
from llmprune.artifacts.records.protocols import Protocols, TaskProtocol
from llmprune.evaluation.energy import EnergyMeter, find_energy_meter
from llmprune.evaluation.tasks import OpenTasks
from llmprune.models.compute import Compute, dtype_name
from llmprune.stages.benchmark.agreement import agreement_protocol
from llmprune.stages.benchmark.gate import require_metrics
from llmprune.stages.benchmark.metrics import metric_names
from llmprune.stages.benchmark.perplexity import perplexity_protocol, read_texts
from llmprune.stages.benchmark.room import streamed_models
from llmprune.stages.benchmark.settings import BenchSettings
from llmprune.stages.benchmark.speed import speed_protocol
from llmprune.stages.benchmark.subjects import Subject
from llmprune.stages.benchmark.tasks import open_asked_tasks
from llmprune.stages.common.progress import Progress
from llmprune.text.windows import TokenWindows


@dataclass(frozen=True)
class Measurements:
    """What will be measured, once all that could be refused has been looked at.

    Attributes:
        settings: as asked for.
        dtype: what both models are computed in.
        prefill: tokens of the long prompt.
        texts: windows of every text.
        tasks: zero-shot tasks, and how they are asked; None: there are none.
        agreement: how greedy choices are compared; None: they are not.
        meter: of energy.
        streamed: names of the models that are run block by block, since memory has no room for them.
    """

    settings: BenchSettings
    dtype: torch.dtype
    prefill: int
    texts: list[TokenWindows]
    tasks: tuple[OpenTasks, TaskProtocol] | None
    agreement: AgreementProtocol | None
    meter: EnergyMeter
    streamed: frozenset[str]

    def protocols(self, compute: Compute) -> Protocols:
        """How all of it is measured."""
        settings = self.settings
        return Protocols(
            perplexity=tuple(perplexity_protocol(windows) for windows in self.texts),
            tasks=self.tasks[1] if self.tasks else None,
            speed=speed_protocol(settings, prefill=self.prefill, meter=self.meter) if settings.speed else None,
            agreement=self.agreement,
            dtype=dtype_name(self.dtype),
            device=str(compute.device),
        )


def check(subjects: Sequence[Subject], settings: BenchSettings, compute: Compute, progress: Progress) -> Measurements:
    """Look at everything that may be wrong before the first model is loaded.

    Raises:
        LlmpruneError: as ``bench`` does.
    """
    settings.require_something(compared=len(subjects) > 1)
    seq_len, prefill = settings.lengths(min(subject.positions for subject in subjects))
    texts = read_texts(subjects, settings, seq_len=seq_len, progress=progress)
    tasks = open_asked_tasks(subjects, settings)
    meter = find_energy_meter(compute.device)
    dtype = compute.dtype or subjects[-1].dtype()
    sizes = {subject.name: subject.needed_bytes(dtype) for subject in subjects}
    written = () if tasks is None else tasks[0].generative
    streamed = streamed_models(sizes, settings, written=written, dtype=dtype_name(dtype), compute=compute)
    agreement = agreement_protocol(subjects, settings, texts, streamed=streamed, progress=progress)
    names = metric_names(
        texts=[windows.identity().name for windows in texts],
        tasks=tasks[0].metrics if tasks else (),
        batch=settings.batch if settings.speed else (),
        repeats=settings.repeats,
        energy=bool(meter.counters),
        loaded=subjects[0].needed_bytes(dtype) > 0
        and subjects[0].name not in streamed
        and (not compute.spread or settings.speed or agreement is not None),
        compared=len(subjects) > 1,
        agreement=agreement is not None,
        draft=settings.draft,
    )
    require_metrics(settings.conditions, names)
    return Measurements(settings, dtype, prefill, texts, tasks, agreement, meter, streamed)
