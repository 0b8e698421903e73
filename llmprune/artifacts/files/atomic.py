"""Outputs that exist completely or not at all.

They are built under a temporary name beside their final one (``temporary``) and renamed when they are whole.
"""

import errno
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from llmprune.artifacts.files.digests import FileDigest
from llmprune.artifacts.files.disk_space import explain_full_disk, is_full_disk
from llmprune.artifacts.files.ownership import Owned, remove_own
from llmprune.artifacts.files.temporary import (
    free_name,
    lock,
    remove_leftovers,
    temporary_directory,
    temporary_file,
    unlock,
    unused_name,
)
from llmprune.errors import NumericalError, OutputExistsError, UserError, VerificationError
from llmprune.spelling import listed


@contextmanager
def atomic_directory(
    path: Path, *, overwrite: bool = False, owned: Callable[[Path], Owned] = lambda _: lambda _: True
) -> Iterator[Path]:
    """Yield an empty directory that becomes ``path`` when the block ends without an exception.

    The directory is a hidden sibling of ``path``, so the final rename stays within one file system.
    Everything in it is flushed to the disk before the rename. After any exception, Ctrl-C included, it is
    removed, and so are parents that were made for it. What an earlier, killed process left for the same
    ``path`` is removed first; when it died in the middle of replacing old content, that content is put back.
    After a ``VerificationError`` the directory is kept beside ``path``, as ``NAME.failed``, and the message says so.

    Args:
        path: the final directory. Missing or empty is fine. A symbolic link is followed.
        overwrite: replace old content; it is moved aside, and deleted, only after the new content is
            complete.
        owned: which files of the old content may be deleted, see ``ownership``. Others are kept in ``NAME.kept``.

    Raises:
        OutputExistsError: before any work, when ``path`` is a file, or not empty and ``overwrite`` is not
            set; at the end, when another process filled ``path`` meanwhile.
        UserError: before any work, when ``path`` cannot be replaced or its parent cannot be written.
        LlmpruneError: the disk is full.
    """
    final = path.resolve()
    remove_leftovers(final.parent, of=final)
    _refuse_occupied(path, final, overwrite=overwrite)
    with explain_full_disk(final), _partial_sibling(final) as partial:
        try:
            yield partial
        except VerificationError as error:
            kept = partial.rename(free_name(final, "failed"))
            raise VerificationError(f"{error} What was written is in {kept}.") from error
        _sync_tree(partial)
        move_into_place(partial, final, owned=owned if overwrite else None)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; the file written there replaces ``path`` when the block ends.

    It is flushed to the disk before the rename, and removed after any exception.

    Raises:
        LlmpruneError: the disk is full; the old file is intact.
    """
    with explain_full_disk(path), temporary_file(path) as partial:
        try:
            yield partial
            sync(partial)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync(path.parent)


def write_text_atomic(path: Path, text: str) -> FileDigest:
    """Replace the file ``path`` by ``text`` (UTF-8), flushed to the disk before the rename; returns what was written.

    Raises:
        LlmpruneError: the disk is full; the old file is intact.
    """
    content = text.encode()
    with atomic_file(path) as partial:
        partial.write_bytes(content)
    return FileDigest.of_bytes(content)


def write_json_atomic(path: Path, obj: object) -> FileDigest:
    """Replace the file ``path`` by ``obj`` as indented JSON; see `write_text_atomic`.

    Raises:
        NumericalError: ``obj`` holds NaN or an infinity, which JSON cannot say.
        LlmpruneError: the disk is full; the old file is intact.
    """
    found = next(_not_finite(obj), None)
    if found is not None:
        place, number = found
        raise NumericalError(
            f"{place} of {path.name} would be {number}: the model computes numbers that are too large. Look for "
            "weights that are far larger than others, or try `dtype=float32`."
        )
    return write_text_atomic(path, json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _not_finite(obj: object, place: str = "") -> Iterator[tuple[str, float]]:
    """Every number that JSON cannot say, and where it stands."""
    match obj:
        case float() if not math.isfinite(obj):
            yield place, obj
        case dict():
            for name, one in obj.items():
                yield from _not_finite(one, f"{place}.{name}".lstrip("."))
        case list() | tuple():
            for index, one in enumerate(obj):
                yield from _not_finite(one, f"{place}[{index}]")


def _occupied(final: Path) -> bool:
    return final.is_dir() and any(final.iterdir())


def require_replaceable(path: Path) -> None:
    """See that a directory could be put at ``path``, whatever it holds.

    Raises:
        OutputExistsError: it is a file.
        UserError: it is a mount point, or the working directory lies in it.
    """
    final = path.resolve()
    if not final.exists():
        return
    if not final.is_dir():
        raise OutputExistsError(f"{path} is a file; give another directory with `out`.")
    if final.is_mount():
        raise UserError(f"{path} is a mount point and cannot be replaced; give a directory inside it with `out`.")
    if Path.cwd().is_relative_to(final):
        raise UserError(f"{path} holds the working directory; give another directory with `out`.")


def _refuse_occupied(path: Path, final: Path, *, overwrite: bool) -> None:
    require_replaceable(path)
    if not overwrite and _occupied(final):
        names = sorted(child.name for child in final.iterdir())
        raise OutputExistsError(
            f"{path} already holds {listed(names)}; give another directory with `out`, or replace it with `force=True`."
        )


@contextmanager
def _partial_sibling(final: Path) -> Iterator[Path]:
    missing = missing_folders(final.parent)
    with ExitStack() as opened:
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            partial = opened.enter_context(temporary_directory(final))
        except OSError as error:
            if is_full_disk(error):
                raise
            raise UserError(f"Cannot write in {final.parent}: {error.strerror}.") from error
        try:
            yield partial
        except BaseException:
            opened.close()
            remove_empty(missing)
            raise


def missing_folders(path: Path) -> list[Path]:
    """Those of ``path`` and the folders above it that are not there, inner ones first."""
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders that were made for something that did not come, inner ones first, up to one that is in use."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def move_into_place(partial: Path, final: Path, *, owned: Callable[[Path], Owned] | None) -> None:
    """Give a complete directory its final name.

    Old content is moved aside first and deleted last. If this process dies in between, ``remove_leftovers`` puts the
    old content back or finishes the deletion.

    Args:
        partial: the new directory, on the same file system.
        final: its new name.
        owned: which files of old content may be deleted; others are kept in ``NAME.kept``. None: there must be none.

    Raises:
        OutputExistsError: there is old content, and ``owned`` is None.
    """
    aside = descriptor = None
    if owned is not None and _occupied(final):
        descriptor = lock(final)  # follows the directory to its new name: no other process takes it for a leftover
        aside = final.rename(unused_name(final, "replaced"))
    try:
        partial.rename(final)
    except BaseException as error:
        if aside is not None:
            aside.rename(final)
        unlock(descriptor)
        if isinstance(error, OSError) and error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise OutputExistsError(f"{final} was written by something else meanwhile; it was kept.") from error
        raise
    sync(final.parent)
    if aside is not None and owned is not None and remove_own(aside, owned(aside)):
        aside.rename(free_name(final, "kept"))
    unlock(descriptor)


def _sync_tree(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file() or path.is_dir():
            sync(path)
    sync(directory)


def sync(path: Path) -> None:
    """Flush a file or directory to the disk."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return  # Windows cannot open directories
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
