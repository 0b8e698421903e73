"""The folder of a pass: finished weights, hidden states at the next block, and the state of the pass.

After each block everything that the next one needs is in the folder. A pass that was stopped goes on at the next block
and ends with the same bytes, because a block depends on nothing but its weights and these files.

The state is the first file of a pass and the last one to be deleted, so it tells whose folder this is at any moment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Generic, Literal, TypeVar

from pydantic import Field
from torch import Tensor

from llmprune.artifacts.files.atomic import missing_folders, remove_empty
from llmprune.artifacts.files.disk_space import explain_full_disk
from llmprune.artifacts.files.locks import LOCK, held
from llmprune.artifacts.files.ownership import Owned, remove_own, require_own
from llmprune.artifacts.files.temporary import is_temporary, short_name
from llmprune.artifacts.files.tensors import save_tensors
from llmprune.artifacts.records.differences import differences
from llmprune.artifacts.records.environment import Environment, compared
from llmprune.artifacts.records.provenance import FileRecord, Record, read_state, recorded_as, write_state
from llmprune.errors import ArtifactError, UserError

_STATE = "state.json"
_KIND = "llmprune-pass"
_FILES = re.compile(
    rf"{re.escape(_STATE)}|{re.escape(LOCK)}|block-\d{{5}}\.safetensors"
    r"|(pruned|dense)(-held-back)?/hidden-\d{5}(-\d{5,}-\d{5,})?\.safetensors"
)


class PassState(Record):
    """What a pass runs on, and what it has finished.

    Attributes:
        model: fingerprint of the model whose weights change.
        settings: everything that decides what comes out.
        entering: the block at which it goes on.
        remarks: everything that went another way than asked for.
        weights: files of finished weights, by their path in the folder.
        states: files of hidden states, likewise.
        environment: what it ran with last.
    """

    kind: Literal["llmprune-pass"] = "llmprune-pass"
    model: str
    settings: Record
    entering: int = 0
    remarks: tuple[str, ...] = ()
    weights: dict[str, FileRecord] = Field(default_factory=dict)
    states: dict[str, FileRecord] = Field(default_factory=dict)
    environment: Environment = Field(default_factory=Environment.now)

    @property
    def has_begun(self) -> bool:
        """Whether there is anything to go on with."""
        return bool(self.weights or self.states or self.entering)


State = TypeVar("State", bound=PassState)


@dataclass(frozen=True)
class PassFolder(Generic[State]):
    """A folder in which everything belongs to one pass.

    Attributes:
        path: the folder; it need not exist.
        kind: of the state of the pass.
        replace: whether a stopped pass on something else is given up.
    """

    path: Path
    kind: type[State]
    replace: bool = False

    def stopped(self) -> State | None:
        """What a pass of this kind had finished when it was stopped; None where there is none."""
        return read_state(self.path / _STATE, self.kind)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder for this process. It is gone at the end if no pass is left in it.

        Raises:
            ArtifactError: another llmprune is at work in it.
            OutputExistsError: it holds something else.
            UserError: it cannot be made.
            LlmpruneError: the disk is full.
        """
        require_pass(self.path)
        missing = missing_folders(self.path.parent)
        busy = f"Another llmprune is at work in {self.path}; wait for it, or give another `out`."
        with ExitStack() as stack:
            try:
                with explain_full_disk(self.path):
                    stack.enter_context(held(self.path, busy=busy))
            except OSError as error:
                raise UserError(f"Cannot write in {self.path.parent}: {error.strerror}.") from error
            try:
                require_pass(self.path)
                yield
            finally:
                if self.stopped() is None:
                    self.remove()
                    remove_empty(missing)

    def opened(self, begin: State, make: Callable[[State], State], *, say: Callable[[str], None]) -> State:
        """Where an earlier pass on the same stopped, or the state of a new one.

        Args:
            begin: what the pass runs on. A stopped pass on the same whose files are not whole is removed.
            make: writes the first files of a new pass, and gives the state that names them.
            say: told where a pass goes on in another environment, or begins anew.

        Raises:
            ArtifactError: a pass on something else was stopped here, and ``replace`` is not set.
            LlmpruneError: the disk is full.
        """
        with explain_full_disk(self.path):
            return self._resumed(begin, say) or self._begun(begin, make)

    def save(self, state: State) -> State:
        """Write the state, then remove the files that it does not name.

        In this order an interruption leaves files too many, never too few.
        """
        write_state(self.path / _STATE, state)
        needed = {_STATE, LOCK, *state.weights, *state.states}
        remove_own(self.path, lambda path: _is_own(path) and str(path) not in needed)
        return state

    def write_weights(self, block: int, stored: Mapping[str, Tensor]) -> dict[str, FileRecord]:
        """Write the finished tensors of a block, by their names in the checkpoint; no file where there are none."""
        if not stored:
            return {}
        name = f"block-{block:05d}.safetensors"
        save_tensors(
            self.path / name, {tensor: weight.contiguous().cpu() for tensor, weight in stored.items()}, {"format": "pt"}
        )
        return {name: FileRecord.of_file(self.path / name)}

    def remove_finished(self, begin: State) -> None:
        """Remove the pass that made a complete checkpoint. A pass with other settings stays: it may be continued."""
        stopped = self.stopped()
        if stopped is not None and stopped.settings == begin.settings:
            self.remove()

    def remove(self) -> None:
        """Remove the pass, whatever it has finished."""
        remove_pass(self.path)

    def _resumed(self, begin: State, say: Callable[[str], None]) -> State | None:
        state = self.stopped()
        if state is None or not state.has_begun:
            return None
        if (state.model, state.settings) != (begin.model, begin.settings):
            if self.replace:
                return None
            how = differences(state.settings, begin.settings) or "another model"
            raise ArtifactError(
                f"{self.path} holds a pass with other settings that was interrupted ({how}); type its command again "
                "to go on with it, give another `out`, or type `force=True` to give it up."
            )
        files = {**state.weights, **state.states}
        if not all(file.is_at(self.path / name) for name, file in files.items()):
            say(f"The files in {self.path} are not what an earlier pass wrote: it begins anew.")
            return None
        if (changed := compared(state.environment, begin.environment)) is None:
            return state
        remark = f"From block {state.entering} on, {changed}"
        say(remark)
        return state.model_copy(update={"environment": begin.environment, "remarks": (*state.remarks, remark)})

    def _begun(self, begin: State, make: Callable[[State], State]) -> State:
        remove_own(self.path, lambda path: _is_own(path) and str(path) != LOCK, last=(_STATE,))
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self.save(begin)
            return self.save(make(begin))
        except BaseException:
            self.remove()
            raise


def working_folder(out: Path) -> Path:
    """The folder of the work on ``out``. Nothing but the files of an earlier pass may lie there.

    Raises:
        OutputExistsError: something else does.
    """
    folder = out.absolute().with_name(f"{short_name(out.absolute())}.partial")
    require_pass(folder)
    return folder


def require_pass(folder: Path) -> None:
    """See that a folder, if there is one, holds nothing but what a pass has written.

    Raises:
        OutputExistsError: it holds something else, or is a link.
    """
    require_own(folder, pass_files(folder), instead="move it, or give another `out`.")


def pass_files(folder: Path) -> Owned:
    """Which files of a folder a pass has written: those of its names, where its state says that this is its folder."""
    return _is_own if recorded_as(folder / _STATE, _KIND) is not None else _is_left_before_a_state


def remove_pass(folder: Path) -> list[str]:
    """Remove a pass, whatever it has finished; returns what else lies in its folder."""
    return remove_own(folder, pass_files(folder), last=(_STATE,))


def _is_own(path: PurePosixPath) -> bool:
    return _FILES.fullmatch(str(path)) is not None or is_temporary(path)


def _is_left_before_a_state(path: PurePosixPath) -> bool:
    return str(path) == LOCK or is_temporary(path)
