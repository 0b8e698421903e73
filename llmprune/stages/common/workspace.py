"""What every stage starts from: a run directory and the model that it belongs to."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint, open_checkpoint
from llmprune.artifacts.records.provenance import ModelIdentity
from llmprune.artifacts.run import RunDirectory, RunRecord
from llmprune.errors import ModelError
from llmprune.models.checkpoint_decoder import CheckpointDecoder
from llmprune.models.compute import Compute, choose_compute, dtype_name
from llmprune.models.devices import untested
from llmprune.models.hub_download import absent_shards
from llmprune.models.loading import load_tokenizer, open_decoder, open_shell, stored_dtype
from llmprune.models.source import (
    check_model,
    find_model,
    identify,
    is_hub_id,
    positions,
    vocabulary,
)
from llmprune.ranks.shared import require_shared
from llmprune.stages.common.command_line import command_folder
from llmprune.stages.common.conversion import convert, refuse_to_convert
from llmprune.stages.common.intact import Intact
from llmprune.stages.common.model_of_run import downloaded, located_checkpoint, recorded_model
from llmprune.stages.common.progress import Progress, Silent
from llmprune.text.tokenizer_identity import tokenizer_fingerprint


@dataclass(frozen=True)
class Workspace:
    """A run directory, its model, and where to compute.

    Attributes:
        run: the run directory.
        record: what is recorded, or to be recorded, of the run's model.
        directory: the dense model's checkpoint directory.
        model: which model it is.
        positions: the longest sequence that the model was made for.
        vocabulary: how many tokens the model has embeddings for.
        compute: device and dtype.
        progress: who listens.
        folder: where recorded commands are to be typed, see ``command_line``.
        trust_remote_code: whether the checkpoint's own Python files may run.
        left_out: shards of a Hub model that were not downloaded, since nothing in them is needed.
        intact: what is checked of checkpoints that llmprune wrote.
    """

    run: RunDirectory
    record: RunRecord
    directory: Path
    model: ModelIdentity
    positions: int
    vocabulary: int
    compute: Compute
    progress: Progress
    folder: Path
    trust_remote_code: bool = False
    left_out: frozenset[str] = frozenset()
    intact: Intact = field(default_factory=Intact)

    def open_checkpoint(self) -> Checkpoint:
        """The dense model's files."""
        return open_checkpoint(self.directory, left_out=self.left_out)

    def open_decoder(self) -> CheckpointDecoder:
        """The dense model, with everything but its blocks in memory."""
        decoder = open_decoder(
            self.directory,
            device=self.compute.device,
            dtype=self.compute.dtype,
            trust_remote_code=self.trust_remote_code,
            left_out=self.left_out,
        )
        decoder.runner.halving.say = self.progress.say
        return decoder

    def open_shell(self) -> CheckpointDecoder:
        """The dense model without weights: enough to look at shapes and names."""
        return open_shell(
            self.directory,
            device=self.compute.device,
            dtype=self.compute.dtype,
            trust_remote_code=self.trust_remote_code,
            left_out=self.left_out,
        )

    def beside(self, spec: str) -> Workspace:
        """The same run, device and dtype with another model, such as one that was made from the run's own.

        Args:
            spec: a checkpoint directory or a Hub id.

        Raises:
            ModelError: there is no such model, or it is not a causal LM.
            CheckpointError: its weights are not whole, not what its config says, or not what llmprune wrote.
        """
        source = find_model(spec, trust_remote_code=self.trust_remote_code)
        if source.is_gguf:
            raise ModelError(f"{source.path} is a GGUF file; a checkpoint directory or a Hub id was expected.")
        trust = self.trust_remote_code
        config, checkpoint = check_model(source.path, trust_remote_code=trust)
        self.intact.require(source.path, self.progress)
        return replace(
            self,
            directory=source.path,
            model=identify(source.name, source.path, config, checkpoint, trust_remote_code=trust),
            positions=positions(config),
            vocabulary=vocabulary(config),
            compute=replace(self.compute, dtype=self.dtype),
            left_out=frozenset(),
        )

    def tokenizer_fingerprint(self) -> str:
        """Which tokenizer the model has now.

        Raises:
            ModelError: none that can be used.
        """
        return tokenizer_fingerprint(load_tokenizer(self.directory, trust_remote_code=self.trust_remote_code))

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in: as asked for, else as the model is stored."""
        return self.compute.dtype or stored_dtype(self.open_checkpoint())

    def going_on(self, artifact: Path, dtype: str | None) -> Workspace:
        """The workspace with which a stage continues from an artifact.

        Where no dtype was asked for, it computes in the one that the artifact was made in, and says so once.

        Args:
            artifact: its path, for people.
            dtype: what it was made in, as it records it; None: nothing was computed for it.

        Raises:
            TargetError: the artifact names no dtype.
        """
        if self.compute.dtype is not None or dtype in (None, dtype_name(self.dtype)):
            return self
        self.progress.say(f"Computing in {dtype}, in which {artifact} was made.")
        return replace(self, compute=replace(self.compute, dtype=choose_compute(dtype=dtype).dtype))

    def remark_slow_dtype(self) -> None:
        """Say so where a dtype narrower than float32 is slower on this machine, before long work in it."""
        if (remark := self.compute.slower_dtype(self.dtype)) is not None:
            self.progress.say(remark)

    def require_shared(self) -> None:
        """See that all ranks see the run directory, which is held for writing.

        Raises:
            SharedFolderError: one does not.
        """
        require_shared(self.compute.ranks, self.run.path)

    def writing(self) -> AbstractContextManager[None]:
        """Hold the run for writing, see ``RunDirectory.writing``."""
        return self.run.writing(self.record)


def open_workspace(
    run: Path,
    model: str | None,
    *,
    compute: Compute,
    progress: Progress | None = None,
    trust_remote_code: bool = False,
    without: Collection[int] = (),
    folder: Path | None = None,
    makes_files: bool = True,
    intact: Intact | None = None,
) -> Workspace:
    """Find the model that was typed, or else the run's own, or else the demo model.

    Nothing is written, but for what a killed command left half done, and for a GGUF file or pickled weights: they are
    converted once, into ``dense/`` of the run directory.

    Args:
        run: the run directory.
        model: what was typed as MODEL.
        compute: device and dtype.
        progress: who listens.
        trust_remote_code: whether the checkpoint's own Python files may run.
        without: blocks whose weights are not needed. Shards of a Hub model that hold nothing else are not downloaded.
        folder: where recorded commands are to be typed; None: where the run lies.
        makes_files: whether a model may be downloaded or converted that is not ready.
        intact: what is checked of a model that llmprune wrote; None: everything.

    Raises:
        ModelError: there is no such model, it is not a causal LM, or not ready.
        CheckpointError: its weights are not whole, not what its config says, or not what llmprune wrote.
        ArtifactError: the run directory belongs to another model.
    """
    progress, intact = progress or Silent(), intact or Intact()
    if (remark := untested(compute.device)) is not None:
        progress.say(remark)
    place = RunDirectory(run)
    find = partial(find_model, without=without, trust_remote_code=trust_remote_code, download=makes_files)
    make = partial(convert, trust_remote_code=trust_remote_code) if makes_files else refuse_to_convert
    record = recorded_model(place, model, progress, find)
    if makes_files:
        place.settle()
    directory = located_checkpoint(place, record, progress, find, make)
    left_out = frozenset[str]()
    if is_hub_id(record.model):
        absent = partial(absent_shards, without=without, trust_remote_code=trust_remote_code)
        directory, left_out = downloaded(directory, record, absent, find)
    config, checkpoint = check_model(directory, trust_remote_code=trust_remote_code, left_out=left_out)
    if makes_files:
        intact.require(directory, progress, left_out=left_out)
    return Workspace(
        place,
        record,
        directory,
        identify(record.name, directory, config, checkpoint, trust_remote_code=trust_remote_code),
        positions(config),
        vocabulary(config),
        compute,
        progress,
        folder or command_folder(run),
        trust_remote_code,
        left_out,
        intact,
    )
