"""A folder of checkpoints that a stage makes, measures and may delete: what in it is llmprune's, and what is not."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from llmprune.artifacts.files.locks import LOCK
from llmprune.artifacts.files.ownership import remove_own, require_own
from llmprune.artifacts.files.temporary import free_name, is_temporary, remove_leftovers
from llmprune.artifacts.records.pruning import RECORD_NAME
from llmprune.artifacts.run import RunDirectory
from llmprune.errors import OutputExistsError
from llmprune.stages.common.progress import Progress
from llmprune.stages.output.place import remove_checkpoint
from llmprune.stages.passes import pass_files, remove_pass

_DELETED = re.compile(r"\..+\.deleted")  # checkpoints whose deletion has begun
_FAILED = re.compile(r"\.(failed|kept)(-\d+)?$")  # for somebody to look at
_RUN = ".run"  # of the run directory beside a checkpoint from which another one is made
_ELSEWHERE = "move it away, or type `run=OTHER`."


def require_own_folder(folder: Path) -> None:
    """See that nothing of anybody else lies where a stage keeps its checkpoints.

    Raises:
        OutputExistsError: something does, or the folder is a link.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        require_own(folder, lambda _: False, instead=_ELSEWHERE)
    for path in _entries(folder):
        if not _is_made(path):
            raise OutputExistsError(f"{path} was not made by llmprune, which keeps checkpoints there; {_ELSEWHERE}")
        if path.suffix == ".partial" and not _is_hidden(path):
            require_own(path, pass_files(path), instead=_ELSEWHERE)
        elif path.suffix == _RUN and not (path / RECORD_NAME).is_file():
            require_own(path, _is_of_a_run, instead=_ELSEWHERE)


def tidy(folder: Path, *, keep: Collection[Path], progress: Progress) -> None:
    """Delete what a stage has made in its folder, but for ``keep``. An interrupted deletion leaves no half checkpoint.

    A file that somebody put there stays, and so does what failed its verification.
    """
    remove_leftovers(folder)
    for path in _entries(folder):
        if path in keep or _FAILED.search(path.name) or _is_hidden(path) or not _is_made(path):
            continue
        if _DELETED.fullmatch(path.name):
            _say_what_stays(path, remove_checkpoint(path), progress)
        elif (path / RECORD_NAME).is_file():
            doomed = path.rename(path.with_name(f".{path.name}.deleted"))
            _say_what_stays(doomed, remove_checkpoint(doomed), progress)
        elif path.suffix == ".partial":
            _say_what_stays(path, remove_pass(path), progress)
        else:
            _say_what_stays(path, remove_run(path), progress)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def remove_run(directory: Path) -> list[str]:
    """Remove a run directory that holds nothing but which model it belongs to; returns what else stays."""
    return remove_own(directory, _is_of_a_run, last=(RunDirectory(directory).record_path.name,))


def _is_of_a_run(path: PurePosixPath) -> bool:
    return str(path) in {LOCK, RunDirectory(Path()).record_path.name} or is_temporary(path)


def _entries(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir() if folder.is_dir() else ()) if path.name != LOCK)


def _is_hidden(path: Path) -> bool:
    """Whether a directory is being written, replaced or deleted, also by a process that was killed meanwhile."""
    return is_temporary(PurePosixPath(path.name))


def _is_made(path: Path) -> bool:
    """Whether a directory is called as what a stage makes: a checkpoint, its run directory, or the work on one."""
    if path.is_symlink() or not path.is_dir():
        return False
    if _is_hidden(path) or _DELETED.fullmatch(path.name) or _FAILED.search(path.name):
        return True
    return (path / RECORD_NAME).is_file() or path.suffix in {".partial", _RUN}


def _say_what_stays(doomed: Path, left: list[str], progress: Progress) -> None:
    """Give a folder in which something stays a visible name, and say what stays."""
    if left:
        named = doomed.with_name(doomed.name.removeprefix(".").removesuffix(".deleted"))
        kept = doomed.rename(free_name(named, "kept"))
        progress.say(f"{kept} holds {', '.join(left[:3])}, which llmprune did not write: kept.")
