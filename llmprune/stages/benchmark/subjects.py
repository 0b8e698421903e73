"""Which models a benchmark measures. They are found and checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint
from llmprune.artifacts.records.bench import ModelResult
from llmprune.artifacts.run import RunDirectory
from llmprune.models.anatomy import block_count
from llmprune.models.compute import Compute, dtype_name
from llmprune.models.loading import load_whole
from llmprune.models.source import check_model, find_model, positions, require_finite
from llmprune.models.timing import now
from llmprune.stages.benchmark.sparsity import count_zeros
from llmprune.stages.common.progress import Progress
from llmprune.stages.common.workspace import open_workspace, typed_origin

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Subject:
    """A model to measure.

    Attributes:
        name: its name in results.
        directory: the directory of its checkpoint.
        checkpoint: the opened checkpoint.
        num_blocks: number of its transformer blocks.
        positions: the longest sequence that it was made for.
    """

    name: str
    directory: Path
    checkpoint: Checkpoint
    num_blocks: int
    positions: int

    def described(self) -> ModelResult:
        """A result that holds what the files tell."""
        return ModelResult(
            name=self.name,
            num_blocks=self.num_blocks,
            num_parameters=self.checkpoint.num_parameters,
            weight_bytes=self.checkpoint.nbytes,
            sparsity=count_zeros(self.checkpoint),
        )


@dataclass(frozen=True)
class Loaded:
    """A model in memory.

    Attributes:
        subject: which model it is.
        model: the model in evaluation mode.
        seconds: the time that loading took.
    """

    subject: Subject
    model: PreTrainedModel
    seconds: float


def choose_subjects(
    run: RunDirectory,
    model: str | None,
    baseline: str | None,
    *,
    compute: Compute,
    progress: Progress,
    trust_remote_code: bool,
) -> list[Subject]:
    """The model, then the baseline if there is one.

    Without ``model``, the run's newest pruned checkpoint, else its dense model, else the
    demo model. Without ``baseline``, the run's dense model, if it is another.

    Raises:
        ModelError: no such model, or none at all.
        CheckpointError: weights that are not whole, not finite, or not what the config says.
        ArtifactError: a GGUF file that would have to be converted in another model's run.
    """
    known = run.record()
    newest = run.newest_checkpoint()
    wanted = [model or (str(newest) if newest else None), baseline or (known.model if known else None)]
    subjects: list[Subject] = []
    for spec in wanted[:1] if wanted[1] is None else wanted:
        name, directory = _locate(run, spec, compute, progress, trust_remote_code)
        if directory.resolve() not in {subject.directory.resolve() for subject in subjects}:
            config, checkpoint = check_model(directory, trust_remote_code=trust_remote_code)
            require_finite(directory, trust_remote_code=trust_remote_code)
            subjects.append(Subject(name, directory, checkpoint, block_count(config), positions(config)))
    return subjects


def load_subject(
    subject: Subject, *, dtype: torch.dtype, compute: Compute, progress: Progress, trust_remote_code: bool
) -> Loaded:
    """Load a model as any user of its checkpoint would, and measure the time.

    Raises:
        ModelError: transformers cannot load it.
    """
    progress.say(f"Loading {subject.name} in {dtype_name(dtype)}.")
    started = now(compute.device)
    model = load_whole(subject.directory, device=compute.device, dtype=dtype, trust_remote_code=trust_remote_code)
    return Loaded(subject, model, now(compute.device) - started)


def _locate(
    run: RunDirectory, spec: str | None, compute: Compute, progress: Progress, trust_remote_code: bool
) -> tuple[str, Path]:
    """Name and directory of a model. A model of the run, or one that must be converted, goes through the run."""
    known = run.record()
    if spec is not None and not (known is not None and typed_origin(spec, known) == known.model):
        source = find_model(spec)
        if not source.is_gguf:
            return source.name, source.path
    workspace = open_workspace(run.path, spec, compute=compute, progress=progress, trust_remote_code=trust_remote_code)
    return workspace.model.name, workspace.directory
