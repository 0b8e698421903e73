"""The run directory: what is where, which model it belongs to, and who may write to it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from llmprune.artifacts.files.atomic import missing_folders, remove_empty
from llmprune.artifacts.files.disk_space import explain_full_disk
from llmprune.artifacts.files.locks import LOCK, held, held_for_a_moment
from llmprune.artifacts.files.paths import require_room_for_names
from llmprune.artifacts.files.temporary import remove_leftovers
from llmprune.artifacts.records.provenance import Artifact
from llmprune.artifacts.records.pruning import RECORD_NAME
from llmprune.errors import ArtifactError


class RunRecord(Artifact):
    """``run.json``: what a run directory belongs to.

    Paths inside the run directory are kept relative to it, so that it can be moved.

    Attributes:
        model: which model: a Hub id, the demo model's name, or the absolute path of a directory or a GGUF file.
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
    def dense(self) -> Path:
        """The checkpoint made from a GGUF file or from pickled weights."""
        return self.path / "dense"

    @property
    def calibration(self) -> Path:
        """Directory of the calibration artifact."""
        return self.path / "calibration"

    @property
    def partial_calibration(self) -> Path:
        """The same while it is being made."""
        return self.path / "calibration.partial"

    @property
    def importance(self) -> Path:
        """The block-importance file."""
        return self.path / "importance.json"

    @property
    def experts(self) -> Path:
        """The expert-importance file."""
        return self.path / "experts.json"

    @property
    def bench(self) -> Path:
        """Directory of benchmark results."""
        return self.path / "bench"

    @property
    def generations(self) -> Path:
        """What the models write after some prompts."""
        return self.path / "samples.json"

    @property
    def report(self) -> Path:
        """Directory of the report page and its figures."""
        return self.path / "report"

    @property
    def budget(self) -> Path:
        """What ``llmprune prune`` chose, and what stands beside it."""
        return self.path / "prune.json"

    @property
    def budget_folder(self) -> Path:
        """Directory of the checkpoints that are only measured beside the chosen one."""
        return self.path / "prune"

    @property
    def sweep(self) -> Path:
        """The sweep's result."""
        return self.path / "sweep.json"

    @property
    def sweep_folder(self) -> Path:
        """Directory of the sweep's checkpoints."""
        return self.path / "sweep"

    def record(self) -> RunRecord | None:
        """What is recorded of this run; None before anything was.

        Raises:
            ArtifactError: the path is no directory, or the record cannot be read.
        """
        try:
            require_room_for_names(self.path)
            if self.path.exists() and not self.path.is_dir():
                raise ArtifactError(f"The run directory {self.path} is a file; type `run=OTHER`.")
            return RunRecord.read(self.record_path) if self.record_path.exists() else None
        except OSError as error:
            raise ArtifactError(
                f"The run directory {self.path!s:.200} cannot be read: {error.strerror}; type `run=OTHER`."
            ) from error

    def made_here(self) -> list[str]:
        """Names of what is there of all that is made behind a record of the model: artifacts, and checkpoints."""
        places = (
            self.dense,
            self.calibration,
            self.partial_calibration,
            self.importance,
            self.experts,
            self.generations,
            self.budget,
            self.budget_folder,
            self.sweep,
            self.sweep_folder,
        )
        checkpoints = sorted(record.parent for record in self.path.glob(f"*/{RECORD_NAME}"))
        return [place.name for place in (*places, *checkpoints) if place.exists()]

    def new_record(self, *, model: str, directory: Path, name: str) -> RunRecord:
        """What is to be recorded of a run that belongs to ``model``; nothing is written."""
        return RunRecord(model=model, directory=self._spelled(directory), name=name)

    def located(self, path: str) -> Path:
        """A path as the record spells it, as one that can be opened."""
        return self.path / path

    def remember_checkpoint(self, checkpoint: Path, record: RunRecord) -> None:
        """Record a pruned checkpoint as the newest; ``record`` is of its model, should there be none any more.

        Raises:
            ArtifactError: the run cannot be written.
            LlmpruneError: the disk is full.
        """
        with self._changing():
            known = self.record() or record
            name = self._spelled(checkpoint)
            others = tuple(path for path in known.checkpoints if path != name)
            known.model_copy(update={"checkpoints": (*others, name)}).write(self.record_path)

    def existing_checkpoints(self) -> list[Path]:
        """The pruned checkpoints that still exist, oldest first."""
        known = self.record()
        paths = [self.located(path) for path in known.checkpoints] if known else []
        return [path for path in paths if path.is_dir()]

    def own_checkpoints(self) -> list[Path]:
        """Those of them that are no points of a sweep; where there is none, the newest point."""
        existing, swept = self.existing_checkpoints(), self.sweep_folder.resolve()
        own = [path for path in existing if not path.resolve().is_relative_to(swept)]
        return own or existing[-1:]

    def newest_checkpoint(self) -> Path | None:
        """The pruned checkpoint made last that still exists."""
        return next(reversed(self.existing_checkpoints()), None)

    def require_writable(self) -> None:
        """See, before what takes long, that something could be written here; nothing is.

        Raises:
            ArtifactError: it could not.
        """
        place = next(place for place in (self.path, *self.path.absolute().parents) if place.exists())
        if not os.access(place, os.W_OK):
            raise ArtifactError(f"Cannot write in {self.path}: {place} is closed to writing; type `run=OTHER`.")

    @contextmanager
    def writing(self, record: RunRecord) -> Iterator[None]:
        """Hold the run for writing, and record first which model it belongs to.

        Whoever builds on what is in the run, or replaces it, looks at it once the run is held. A stage within a stage
        may hold it again.

        Raises:
            ArtifactError: another llmprune is writing to it, it belongs to another model, or cannot be written.
            LlmpruneError: the disk is full.
        """
        missing = missing_folders(self.path)
        with self._held(), self._recorded(record, missing):
            yield

    def recorded(self, record: RunRecord) -> AbstractContextManager[None]:
        """Record which model the run belongs to, for what is then made beside other writers.

        What fails before it has written anything of its own leaves no run directory behind.

        Raises:
            ArtifactError: it belongs to another model, or cannot be written.
            LlmpruneError: the disk is full.
        """
        return self._recorded(record, missing_folders(self.path))

    @contextmanager
    def _recorded(self, record: RunRecord, missing: Sequence[Path]) -> Iterator[None]:
        new = False
        try:
            with self._changing():
                known = self.record()
                if known is None:
                    record.write(self.record_path)
                    new = True
                elif known.model != record.model:
                    raise belongs_to_another(self.path, known, record.model)
            self.settle()
            yield
        except BaseException:
            if self.path.exists():
                self._forget(missing, own_record=new)
            raise

    def settle(self) -> None:
        """Put right what a killed command has left: old content goes back to its place, temporary files go."""
        for folder in (self.path, self.bench):
            remove_leftovers(folder)

    def _forget(self, missing: Sequence[Path], *, own_record: bool) -> None:
        """Remove a record that nothing came of, and the directories that were made for it."""
        with self._changing():
            if {path.name for path in self.path.iterdir()} <= {LOCK, self.record_path.name}:
                if own_record:
                    self.record_path.unlink(missing_ok=True)
                if self.path in missing:
                    (self.path / LOCK).unlink(missing_ok=True)
                    remove_empty(missing)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the run for as long as a stage works on it."""
        busy = f"Another llmprune is at work in {self.path}; wait for it, or type `run=OTHER`."
        with ExitStack() as stack:
            with self._explained():
                stack.enter_context(held(self.path, busy=busy))
            yield

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold ``run.json``, for the moment in which it is changed: stages that work side by side all do that."""
        with ExitStack() as stack:
            with self._explained():
                stack.enter_context(held_for_a_moment(self.path))
            yield

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with explain_full_disk(self.path):
                yield
        except OSError as error:
            raise ArtifactError(f"Cannot write in {self.path}: {error.strerror}; type `run=OTHER`.") from error

    def _spelled(self, path: Path) -> str:
        path, own = path.absolute(), self.path.absolute()
        return str(path.relative_to(own) if path.is_relative_to(own) else path)


def belongs_to_another(run: Path, known: RunRecord, model: str) -> ArtifactError:
    """The error of a run directory that belongs to another model."""
    return ArtifactError(
        f"The run directory {run} belongs to the model {known.model}, not to {model}; "
        "type `run=OTHER` for another model."
    )
