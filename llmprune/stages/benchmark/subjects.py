"""Which models a benchmark measures. They are found and checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint
from llmprune.artifacts.records.bench import ModelResult
from llmprune.artifacts.records.provenance import WeightsIdentity
from llmprune.artifacts.run import RunDirectory
from llmprune.evaluation.sparsity import measure_model
from llmprune.models.anatomy import block_count
from llmprune.models.compute import Compute, dtype_name
from llmprune.models.loading import load_tokenizer, load_whole, open_decoder, require_finite, stored_dtype
from llmprune.models.resident import sharing_copy, tokenizer_of
from llmprune.models.source import check_model, find_model, fingerprint_of, positions, vocabulary
from llmprune.models.timing import now
from llmprune.stages.benchmark.opened import Loaded, Streamed
from llmprune.stages.benchmark.sparsity import count_zeros
from llmprune.stages.common.intact import Intact
from llmprune.stages.common.model_of_run import typed_origin
from llmprune.stages.common.progress import Progress
from llmprune.stages.common.workspace import open_workspace

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Subject(Protocol):
    """A model to measure: a checkpoint, or a model that is in memory already.

    Attributes:
        name: its name in results.
        num_blocks: number of its transformer blocks.
        positions: the longest sequence that it was made for.
        vocabulary: how many tokens it has embeddings for.
        weights: which config and weights it has; None: it is in memory, and what was done to it is not known.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 (of the class)
    @property
    def num_blocks(self) -> int: ...  # noqa: D102
    @property
    def positions(self) -> int: ...  # noqa: D102
    @property
    def vocabulary(self) -> int: ...  # noqa: D102
    @property
    def weights(self) -> WeightsIdentity | None: ...  # noqa: D102

    def described(self) -> ModelResult:
        """A result that holds what is known without running it."""

    def dtype(self) -> torch.dtype:
        """What it is stored in."""

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer.

        Raises:
            ModelError: none that can be used.
        """

    def needed_bytes(self, dtype: torch.dtype) -> int:
        """Memory that loading it takes; 0: it is in memory."""

    def open(self, dtype: torch.dtype, *, whole: bool, compute: Compute, progress: Progress) -> Loaded | Streamed:
        """The model in evaluation mode: the ``whole`` of it in memory, or one block at a time.

        Raises:
            ModelError: transformers cannot load it, or it cannot be run block by block.
        """


@dataclass(frozen=True)
class CheckpointSubject:
    """A checkpoint to measure, loaded as any user of it would load it.

    Attributes:
        name: its name in results.
        directory: the directory of its checkpoint.
        checkpoint: the opened checkpoint.
        weights: which config and weights it has; None: they were not read.
        num_blocks: number of its transformer blocks.
        positions: the longest sequence that it was made for.
        vocabulary: how many tokens it has embeddings for.
        trust_remote_code: let the checkpoint's own Python files run.
    """

    name: str
    directory: Path
    checkpoint: Checkpoint
    weights: WeightsIdentity | None
    num_blocks: int
    positions: int
    vocabulary: int
    trust_remote_code: bool = False

    def described(self) -> ModelResult:
        """A result that holds what the files tell."""
        return ModelResult(
            name=self.name,
            num_blocks=self.num_blocks,
            num_parameters=self.checkpoint.num_parameters,
            weight_bytes=self.checkpoint.nbytes,
            sparsity=count_zeros(self.checkpoint),
            weights=self.weights,
        )

    def dtype(self) -> torch.dtype:
        """What most of its weights are stored in."""
        return stored_dtype(self.checkpoint)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer beside the weights."""
        return load_tokenizer(self.directory, trust_remote_code=self.trust_remote_code)

    def needed_bytes(self, dtype: torch.dtype) -> int:
        """That of all of its weights."""
        return self.checkpoint.num_parameters * dtype.itemsize

    def open(self, dtype: torch.dtype, *, whole: bool, compute: Compute, progress: Progress) -> Loaded | Streamed:
        """Load it as any user would, and measure the time; or leave its blocks in their files."""
        if not whole:
            why = "is measured" if compute.spread else "does not fit in memory, so it is run"
            progress.say(f"{self.name} {why} block by block, in {dtype_name(dtype)}.")
            decoder = open_decoder(
                self.directory, device=compute.device, dtype=dtype, trust_remote_code=self.trust_remote_code
            )
            return Streamed(self, decoder, compute)
        progress.say(f"Loading {self.name} in {dtype_name(dtype)}.")
        started = now(compute.device)
        model = load_whole(
            self.directory,
            device=compute.device,
            dtype=dtype,
            trust_remote_code=self.trust_remote_code,
            memory_map=compute.memory_map() if compute.spread else None,
        )
        seconds = now(compute.device) - started
        require_finite(model)
        return Loaded(self, model, seconds)


@dataclass(frozen=True)
class ModelSubject:
    """A model in memory to measure.

    Attributes:
        name: its name in results.
        model: the model; it is left as it is.
        given: its tokenizer; None: the one that lies where the model was loaded from.
    """

    name: str
    model: PreTrainedModel
    given: PreTrainedTokenizerBase | None = None

    @property
    def weights(self) -> None:
        """None: what was done to it since it was loaded is not known."""
        return None

    @property
    def num_blocks(self) -> int:
        """Number of its transformer blocks."""
        return block_count(self.model.config)

    @property
    def positions(self) -> int:
        """The longest sequence that it was made for."""
        return positions(self.model.config)

    @property
    def vocabulary(self) -> int:
        """How many tokens it has embeddings for."""
        return vocabulary(self.model.config)

    def described(self) -> ModelResult:
        """A result that holds what its parameters tell."""
        parameters = list(self.model.parameters())
        return ModelResult(
            name=self.name,
            num_blocks=self.num_blocks,
            num_parameters=sum(parameter.numel() for parameter in parameters),
            weight_bytes=sum(parameter.nbytes for parameter in parameters),
            sparsity=measure_model(self.model),
        )

    def dtype(self) -> torch.dtype:
        """What it is in."""
        return self.model.dtype

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that was given, or the one that lies where the model was loaded from."""
        return self.given if self.given is not None else tokenizer_of(self.model)

    def needed_bytes(self, dtype: torch.dtype) -> int:
        """None: its weights are in memory."""
        return 0

    def open(self, dtype: torch.dtype, *, whole: bool, compute: Compute, progress: Progress) -> Loaded:
        """It is in memory; what is measured is a copy that shares its weights."""
        return Loaded(self, sharing_copy(self.model).eval(), None)


def choose_subjects(
    run: RunDirectory,
    model: str | None,
    baseline: str | None,
    *,
    compute: Compute,
    progress: Progress,
    trust_remote_code: bool,
    makes_files: bool = True,
    intact: Intact | None = None,
) -> list[CheckpointSubject]:
    """The model, then the baseline if there is one.

    Without ``model``, the run's newest pruned checkpoint, else its dense model, else the
    demo model. Without ``baseline``, the run's dense model, if it is another. They are downloaded or converted if
    need be, unless ``makes_files`` is false: then they must be there.

    Raises:
        ModelError: no such model, or none at all.
        CheckpointError: weights that are not whole, not what the config says, or not what llmprune wrote.
        ArtifactError: a model that would have to be converted in another model's run.
    """
    known = run.record()
    newest = run.newest_checkpoint()
    wanted = [model or (str(newest) if newest else None), baseline or (known.model if known else None)]
    subjects: list[CheckpointSubject] = []
    for spec in wanted[:1] if wanted[1] is None else wanted:
        name, directory = _locate(run, spec, compute, progress, trust_remote_code, makes_files, intact)
        if directory.resolve() not in {subject.directory.resolve() for subject in subjects}:
            config, checkpoint = check_model(directory, trust_remote_code=trust_remote_code)
            weights = _read_weights(directory, checkpoint, progress, intact or Intact()) if makes_files else None
            subjects.append(
                CheckpointSubject(
                    name,
                    directory,
                    checkpoint,
                    weights,
                    block_count(config),
                    positions(config),
                    vocabulary(config),
                    trust_remote_code,
                )
            )
    return subjects


def _read_weights(directory: Path, checkpoint: Checkpoint, progress: Progress, intact: Intact) -> WeightsIdentity:
    """Which weights are there; of a checkpoint that llmprune wrote, that they are the written ones."""
    intact.require(directory, progress)
    return WeightsIdentity.of(fingerprint_of(directory, checkpoint), intact.digests(checkpoint))


def _locate(
    run: RunDirectory,
    spec: str | None,
    compute: Compute,
    progress: Progress,
    trust_remote_code: bool,
    makes_files: bool,
    intact: Intact | None,
) -> tuple[str, Path]:
    """Name and directory of a model. A model of the run, or one that must be converted, goes through the run."""
    known = run.record()
    if spec is not None and not (known is not None and typed_origin(spec, known) == known.model):
        source = find_model(spec, download=makes_files)
        if not source.must_be_converted:
            return source.name, source.path
    workspace = open_workspace(
        run.path,
        spec,
        compute=compute,
        progress=progress,
        trust_remote_code=trust_remote_code,
        makes_files=makes_files,
        intact=intact,
    )
    return workspace.model.name, workspace.directory
