"""Whose files these are. llmprune deletes and replaces what it has made: file by file, and never through a link.

A folder is llmprune's own where a record that it wrote lies in it. Which files belong to it is a question to that
record, so every folder has an ``Owned`` of its own: see ``activations``, ``passes`` and ``output``.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from llmprune.errors import OutputExistsError
from llmprune.spelling import listed

Owned = Callable[[PurePosixPath], bool]  # whether a file, by its path in a folder, was made by llmprune


def require_own(folder: Path, owned: Owned, *, instead: str) -> None:
    """See that a folder, if there is one, holds nothing but what llmprune has made.

    Args:
        folder: the folder.
        owned: which files were.
        instead: what to do otherwise, as the end of a sentence.

    Raises:
        OutputExistsError: it holds something else, is a link, or is no folder.
    """
    if folder.is_symlink():
        raise OutputExistsError(
            f"{folder} is a link, and llmprune replaces and deletes nothing through links; {instead}"
        )
    if folder.exists() and not folder.is_dir():
        raise OutputExistsError(f"{folder} is a file, where a folder of llmprune's was expected; {instead}")
    others = [str(path) for path in _files(folder) if not _is_own(folder, path, owned)]
    if others:
        raise OutputExistsError(f"{folder} holds {listed(others)}, which llmprune did not write; {instead}")


def remove_own(folder: Path, owned: Owned, *, last: tuple[str, ...] = ()) -> list[str]:
    """Delete what llmprune has made in a folder, and the folder if nothing else is left in it.

    Args:
        folder: the folder; a link is left alone.
        owned: which files are to go.
        last: names of the records that tell so, in order. They go behind all others, so that a deletion that is
            interrupted leaves a folder that is known to be llmprune's.

    Returns:
        What stays, by its path in the folder.
    """
    if folder.is_symlink():
        return [folder.name]
    files = [path for path in _files(folder) if _is_own(folder, path, owned)]
    for path in sorted(files, key=lambda path: last.index(str(path)) if str(path) in last else -1):
        (folder / path).unlink(missing_ok=True)
    for inner, _, _ in os.walk(folder, topdown=False, onerror=raised):
        with suppress(OSError):  # it is not empty
            Path(inner).rmdir()
    return [str(path) for path in _files(folder)]


def raised(error: OSError) -> None:
    """For ``os.walk``, which leaves out in silence what it cannot list.

    Raises:
        OSError: what is there cannot be listed.
    """
    if not isinstance(error, FileNotFoundError | NotADirectoryError):  # there is no such folder
        raise error


def _is_own(folder: Path, path: PurePosixPath, owned: Owned) -> bool:
    return not (folder / path).is_symlink() and owned(path)


def _files(folder: Path) -> Iterator[PurePosixPath]:
    """Every file and every link in a folder, links to folders too; what is behind a link is not looked at."""
    for here, folders, names in os.walk(folder, onerror=raised):
        inside = PurePosixPath(Path(here).relative_to(folder).as_posix())
        links = [name for name in folders if (Path(here) / name).is_symlink()]
        yield from (inside / name for name in sorted([*names, *links]))
