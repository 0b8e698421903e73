"""What in a sweep's folder a sweep has made, and may delete."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator
from itertools import count
from pathlib import Path

from llmprune.artifacts.checkpoints.checkpoint import INDEX_NAME
from llmprune.artifacts.records.pruning import RECORD_NAME
from llmprune.artifacts.run import RunDirectory
from llmprune.errors import OutputExistsError
from llmprune.models.belonging import beside_weights
from llmprune.stages.common.progress import Progress
from llmprune.stages.passes import is_left_by_a_pass

_LOCK = ".lock"
# Directories that are being written, replaced or deleted, also by a process that was killed meanwhile.
_HIDDEN = re.compile(r"\.(.+\.\d+-\d+\.(partial|replaced)|mask-.+)")
_DELETED = re.compile(r"\..+\.deleted")
_FAILED = re.compile(r"\.(failed|kept)(-\d+)?$")  # for somebody to look at
_SHARD = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_WRITTEN = ("config.json", INDEX_NAME, RECORD_NAME, "README.md")


def require_own(folder: Path) -> None:
    """See that nothing of anybody else lies where a sweep keeps its checkpoints.

    Raises:
        OutputExistsError: something does, or the folder is a link.
    """
    if folder.is_symlink():
        raise OutputExistsError(f"{folder} is a link, and a sweep deletes nothing through links; type `run=OTHER`.")
    for path in _entries(folder):
        if not _is_made(path):
            raise OutputExistsError(
                f"{path} was not made by a sweep, which keeps its checkpoints there; move it away, or type `run=OTHER`."
            )


def tidy(folder: Path, *, keep: Collection[Path], progress: Progress) -> None:
    """Delete what a sweep has made in its folder, but for ``keep``. An interrupted deletion leaves no half checkpoint.

    A file that somebody put into a checkpoint stays, and so does what failed its verification.
    """
    for path in _entries(folder):
        if path in keep or _FAILED.search(path.name) or not _is_made(path):
            continue
        if _DELETED.fullmatch(path.name):
            _delete_checkpoint(path, progress)
        elif (path / RECORD_NAME).is_file() and not _HIDDEN.fullmatch(path.name):
            _delete_checkpoint(path.rename(path.with_name(f".{path.name}.deleted")), progress)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _entries(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir() if folder.is_dir() else ()) if path.name != _LOCK)


def _is_made(path: Path) -> bool:
    """Whether a sweep has made a directory: a checkpoint, its run directory, or the work on one."""
    if path.is_symlink() or not path.is_dir():
        return False
    if any(known.fullmatch(path.name) for known in (_DELETED, _HIDDEN)) or _FAILED.search(path.name):
        return True
    if (path / RECORD_NAME).is_file():
        return True
    return is_left_by_a_pass(path) if path.suffix == ".partial" else RunDirectory(path).record_path.is_file()


def _delete_checkpoint(doomed: Path, progress: Progress) -> None:
    """Delete what llmprune wrote into a checkpoint, and what it carried along from the source. All else stays."""
    files = {file for file in doomed.iterdir() if _SHARD.fullmatch(file.name) or file.name in _WRITTEN}
    files |= {doomed / path for path in beside_weights(doomed)}
    for file in sorted(files, key=lambda file: file.name.endswith("config.json")):  # these name others, so they go last
        file.unlink()
    for path in sorted(doomed.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()
    left = sorted(str(path.relative_to(doomed)) for path in doomed.rglob("*") if path.is_symlink() or path.is_file())
    if left:
        name = doomed.name.removeprefix(".").removesuffix(".deleted")
        places = (doomed.with_name(f"{name}.kept{f'-{number}' if number else ''}") for number in count())
        kept = doomed.rename(next(place for place in places if not place.exists()))
        progress.say(f"{kept} holds {', '.join(left[:3])}, which llmprune did not write: kept.")
    else:
        doomed.rmdir()
