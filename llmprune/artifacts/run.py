"""The run directory: what is where, which model it belongs to, and who may write to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from filelock import FileLock, Timeout

from llmprune.artifacts.provenance import Artifact
from llmprune.errors import ArtifactError


class RunRecord(Artifact):
    """``run.json``: what a run directory belongs to.

    Attributes:
        model: the model as it was typed: a directory, a GGUF file or a Hub id.
        directory: where its checkpoint lies on this machine.
        name: what it is called in artifacts: the Hub id, or a file's or directory's own name.
        checkpoints: pruned checkpoints made from it, oldest first.
    """

    KIND: ClassVar[str] = "llmprune-run"

    kind: Literal["llmprune-run"] = "llmprune-run"
    schema_version: int = 1
    model: str
    directory: str
    name: str
    checkpoints: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run's artifacts. Nothing is created before something is written."""

    path: Path

    @property
    def record_path(self) -> Path:
        """Which model this run belongs to."""
        return self.path / "run.json"

    @property
    def calibration(self) -> Path:
        """Directory of the calibration artifact."""
        return self.path / "calibration"

    @property
    def importance(self) -> Path:
        """The block-importance file."""
        return self.path / "importance.json"

    @property
    def bench(self) -> Path:
        """Directory of benchmark results."""
        return self.path / "bench"

    def record(self) -> RunRecord | None:
        """What is recorded of this run; None before anything was."""
        return RunRecord.read(self.record_path) if self.record_path.exists() else None

    def remember_model(self, model: str, directory: Path, *, name: str) -> None:
        """Record which model this run belongs to.

        Raises:
            ArtifactError: it belongs to another one already.
        """
        known = self.record()
        if known is None:
            self.path.mkdir(parents=True, exist_ok=True)
            RunRecord(model=model, directory=str(directory.absolute()), name=name).write(self.record_path)
        elif known.directory != str(directory.absolute()):
            raise ArtifactError(
                f"The run directory {self.path} belongs to the model {known.model}, not to {model}; "
                f"type --run OTHER for another model."
            )

    def remember_checkpoint(self, checkpoint: Path) -> None:
        """Record a pruned checkpoint as the newest."""
        known = self.record()
        assert known is not None, "a checkpoint is pruned from a remembered model"
        name = str(checkpoint.absolute())
        others = tuple(path for path in known.checkpoints if path != name)
        known.model_copy(update={"checkpoints": (*others, name)}).write(self.record_path)

    def newest_checkpoint(self) -> Path | None:
        """The pruned checkpoint made last that still exists."""
        known = self.record()
        existing = [Path(path) for path in known.checkpoints if Path(path).is_dir()] if known else []
        return existing[-1] if existing else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for writing.

        Raises:
            ArtifactError: another llmprune is writing to it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise ArtifactError(
                f"Another llmprune is at work in {self.path}; wait for it, or type --run OTHER."
            ) from None
        try:
            yield
        finally:
            lock.release()
