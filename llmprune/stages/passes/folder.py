"""The folder of a pass: finished weights, hidden states at the next block, and the state of the pass.

After each block everything that the next one needs is in the folder. A pass that was stopped goes on at the next block
and ends with the same bytes, because a block depends on nothing but its weights and these files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from llmprune.artifacts.activations import CachedFile, cached_file, is_intact
from llmprune.artifacts.files.atomic import short_name, write_json_atomic
from llmprune.artifacts.files.disk_space import explain_full_disk, is_full_disk
from llmprune.artifacts.records.provenance import Record
from llmprune.errors import OutputExistsError, UserError

_STATE = "state.json"
_OWN = ("pruned*", "dense*", "scratch", "block-*.safetensors", _STATE, f".{_STATE}.*")


class PassState(Record):
    """What a pass runs on, and what it has finished.

    Attributes:
        model: fingerprint of the model whose weights change.
        settings: everything that decides what comes out.
        entering: the block at which it goes on.
        remarks: everything that went another way than asked for.
        weights: files of finished weights, by their path in the folder.
        states: files of hidden states, likewise.
    """

    model: str
    settings: Record
    entering: int = 0
    remarks: tuple[str, ...] = ()
    weights: dict[str, CachedFile] = Field(default_factory=dict)
    states: dict[str, CachedFile] = Field(default_factory=dict)


State = TypeVar("State", bound=PassState)


@dataclass(frozen=True)
class PassFolder(Generic[State]):
    """A folder in which everything belongs to one pass.

    Attributes:
        path: the folder; it need not exist.
        kind: of the state of the pass.
    """

    path: Path
    kind: type[State]

    def stopped(self) -> State | None:
        """What a pass of this kind had finished when it was stopped; None where there is none."""
        try:
            return self.kind.model_validate_json((self.path / _STATE).read_bytes())
        except (OSError, ValueError):
            return None

    def opened(self, begin: State, make: Callable[[State], State]) -> State:
        """Where an earlier pass on the same stopped, or the state of a new one.

        Args:
            begin: what the pass runs on. A stopped pass on something else, or whose files are not whole, is removed.
            make: writes the first files of a new pass, and gives the state that names them.

        Raises:
            UserError: the folder cannot be made.
            LlmpruneError: the disk is full.
        """
        with explain_full_disk(self.path):
            return self._resumed(begin) or self._begun(begin, make)

    def save(self, state: State) -> State:
        """Write the state, then remove the files that it does not name.

        In this order an interruption leaves files too many, never too few.
        """
        write_json_atomic(self.path / _STATE, state.model_dump())
        needed = {_STATE, *state.weights, *state.states}
        for path in [path for path in self.path.rglob("*") if path.is_file()]:
            if path.relative_to(self.path).as_posix() not in needed:
                path.unlink()
        return state

    def write_weights(self, block: int, stored: Mapping[str, Tensor]) -> dict[str, CachedFile]:
        """Write the finished tensors of a block, by their names in the checkpoint; no file where there are none."""
        if not stored:
            return {}
        name = f"block-{block:05d}.safetensors"
        save_file(
            {tensor: weight.contiguous().cpu() for tensor, weight in stored.items()}, self.path / name, {"format": "pt"}
        )
        return {name: cached_file(self.path / name)}

    def remove_finished(self, begin: State) -> None:
        """Remove the pass that made a complete checkpoint. A pass with other settings stays: it may be continued."""
        stopped = self.stopped()
        if stopped is not None and stopped.settings == begin.settings:
            shutil.rmtree(self.path)

    def _resumed(self, begin: State) -> State | None:
        state = self.stopped()
        if state is None or (state.model, state.settings) != (begin.model, begin.settings):
            return None
        files = {**state.weights, **state.states}
        return state if all(is_intact(self.path / name, file) for name, file in files.items()) else None

    def _begun(self, begin: State, make: Callable[[State], State]) -> State:
        shutil.rmtree(self.path, ignore_errors=True)
        try:
            self.path.mkdir(parents=True)
        except OSError as error:
            if is_full_disk(error):
                raise
            raise UserError(f"Cannot write in {self.path.parent}: {error.strerror}.") from error
        try:
            return self.save(make(begin))
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise


def working_folder(out: Path) -> Path:
    """The folder of the work on ``out``. Nothing but the files of an earlier pass may lie there.

    Raises:
        OutputExistsError: something else does.
    """
    folder = out.absolute().with_name(f"{short_name(out.absolute())}.partial")
    if folder.exists() and not is_left_by_a_pass(folder):
        raise OutputExistsError(
            f"{folder}, where the work would go on, holds something else; move it, or give another `out`."
        )
    return folder


def is_left_by_a_pass(folder: Path) -> bool:
    """Whether a folder holds nothing but the files of a pass."""
    return folder.is_dir() and all(any(fnmatch(path.name, name) for name in _OWN) for path in folder.iterdir())
