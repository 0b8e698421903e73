"""Temporary names of our own, and what a process that died has left under them.

``.NAME.PID-NUMBER.partial`` is being written; ``.NAME.PID-NUMBER.replaced`` is old content whose successor takes its
place. The process that works on one holds a lock on it (``flock``). The kernel drops the lock when that process dies,
however it dies, so one whose lock can be taken is a leftover.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path, PurePosixPath

try:
    import fcntl
except ImportError:  # Windows: nothing is ever locked there, so no leftover is ever removed
    fcntl = None  # type: ignore[assignment]

_NUMBERS = count()  # no name is given twice by one process
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.\d+-\d+\.(?P<kind>partial|replaced)")


def is_temporary(path: PurePosixPath) -> bool:
    """Whether a path has a name that only this module gives, or lies in a directory of such a name."""
    return any(_TEMPORARY.fullmatch(part) for part in path.parts)


def short_name(path: Path) -> str:
    """The name of ``path``, if need be shortened (with a hash) to leave room for a prefix and a suffix."""
    name = path.name
    if len(os.fsencode(name)) <= 200:
        return name
    return f"{name[:40]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


def unused_name(final: Path, kind: str) -> Path:
    """A hidden sibling's name that nothing has: of kind ``partial`` or ``replaced``."""
    names = (f".{short_name(final)}.{os.getpid()}-{number}.{kind}" for number in _NUMBERS)
    return next(path for path in map(final.with_name, names) if not os.path.lexists(path))


def free_name(final: Path, suffix: str) -> Path:
    """A visible sibling's name that nothing has."""
    names = (f"{short_name(final)}.{suffix}{f'-{number}' if number else ''}" for number in count())
    return next(path for path in map(final.with_name, names) if not os.path.lexists(path))


@contextmanager
def temporary_file(final: Path) -> Iterator[Path]:
    """An empty file beside ``final``, locked for as long as the context lasts; what becomes of it is the caller's.

    It must be written in place: a library that renames another file over it would take the lock away.
    """
    partial, descriptor = _new(final, lambda partial: partial.touch(exist_ok=False))
    try:
        yield partial
    finally:
        unlock(descriptor)


@contextmanager
def temporary_directory(final: Path) -> Iterator[Path]:
    """An empty directory beside ``final``, locked; it is removed at the end if it still has its name."""
    partial, descriptor = _new(final, Path.mkdir)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        unlock(descriptor)


@contextmanager
def scratch_directory(folder: Path, name: str = "scratch") -> Iterator[Path]:
    """A directory for working files inside ``folder``, gone at the end. What a killed process left there goes first.

    Processes that work in one folder together give it names of their own.
    """
    final = folder / name
    remove_leftovers(folder, of=final)
    with temporary_directory(final) as scratch:
        yield scratch


def remove_leftovers(folder: Path, *, of: Path | None = None) -> None:
    """Remove what processes that died have left in ``folder`` under temporary names.

    Old content whose successor never took its place is put back.

    Args:
        folder: it need not exist.
        of: only what was to become, or was, this path in it; None: of all paths.
    """
    wanted = None if of is None else short_name(of)
    try:
        found = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # none that could be seen
        return
    for path in found:
        match = _TEMPORARY.fullmatch(path.name)
        if match is None or path.is_symlink() or wanted not in {None, match["name"]}:
            continue
        descriptor = lock(path)
        if descriptor is None:
            continue
        final = of or folder / match["name"]
        if match["kind"] == "replaced" and not os.path.lexists(final):
            path.rename(final)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        unlock(descriptor)


def lock(path: Path) -> int | None:
    """Lock a file or directory for this process: a descriptor, or None where it is locked or cannot be."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def unlock(descriptor: int | None) -> None:
    """Give up what ``lock`` gave."""
    if descriptor is not None:
        os.close(descriptor)


def _new(final: Path, make: Callable[[Path], None]) -> tuple[Path, int | None]:
    """Have ``make`` make something under an unused name, and lock it.

    Args:
        final: what it is for.
        make: raises FileExistsError where the name is taken.
    """
    while True:
        partial = unused_name(final, "partial")
        with suppress(FileExistsError):
            make(partial)
            descriptor = lock(partial)
            if partial.exists():  # else another process took it for a leftover before it was locked
                return partial, descriptor
            unlock(descriptor)
