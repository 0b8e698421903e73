"""Outputs that exist completely or not at all.

A directory is built under a temporary name beside its final one and renamed when it is whole. A temporary
directory is locked (``flock``) by the process that fills it; the kernel drops the lock when that process
dies, however it dies, so a lock that can be taken marks a leftover.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from llmprune.artifacts.files.disk_space import explain_full_disk, is_full_disk
from llmprune.errors import OutputExistsError, UserError, VerificationError

try:
    import fcntl
except ImportError:  # Windows: nothing is ever locked there, so no leftover is ever removed
    fcntl = None  # type: ignore[assignment]


@contextmanager
def atomic_directory(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
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

    Raises:
        OutputExistsError: before any work, when ``path`` is a file, or not empty and ``overwrite`` is not
            set; at the end, when another process filled ``path`` meanwhile.
        UserError: before any work, when ``path`` cannot be replaced or its parent cannot be written.
        LlmpruneError: the disk is full.
    """
    final = path.resolve()
    _remove_leftovers(final)
    _refuse_occupied(path, final, overwrite=overwrite)
    with explain_full_disk(final), _partial_sibling(final) as partial:
        try:
            yield partial
        except VerificationError as error:
            kept = partial.rename(_free_name(final, "failed"))
            raise VerificationError(f"{error} What was written is in {kept}.") from error
        _sync_tree(partial)
        _move_into_place(partial, final, overwrite=overwrite)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; the file written there replaces ``path`` when the block ends.

    It is flushed to the disk before the rename, and removed after any exception.

    Raises:
        LlmpruneError: the disk is full; the old file is intact.
    """
    partial = path.with_name(f".{short_name(path)}.{os.getpid()}-{threading.get_ident()}.partial")
    with explain_full_disk(path):
        try:
            yield partial
            _sync(partial)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync(path.parent)


def write_text_atomic(path: Path, text: str) -> None:
    """Replace the file ``path`` by ``text`` (UTF-8), flushed to the disk before the rename.

    Raises:
        LlmpruneError: the disk is full; the old file is intact.
    """
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json_atomic(path: Path, obj: object) -> None:
    """Replace the file ``path`` by ``obj`` as indented JSON; see `write_text_atomic`.

    Raises:
        ValueError: ``obj`` holds NaN or an infinity, which JSON cannot say.
        LlmpruneError: the disk is full; the old file is intact.
    """
    write_text_atomic(path, json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def short_name(path: Path) -> str:
    """The name of ``path``, if need be shortened (with a hash) to leave room for a prefix and a suffix."""
    name = path.name
    if len(os.fsencode(name)) <= 200:
        return name
    return f"{name[:40]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


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
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise OutputExistsError(
            f"{path} already holds {shown}; give another directory with `out`, or replace it with `force=True`."
        )


@contextmanager
def _partial_sibling(final: Path) -> Iterator[Path]:
    missing = [parent for parent in final.parents if not parent.exists()]
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        partial, lock = _make_locked(final)
    except OSError as error:
        if is_full_disk(error):
            raise
        raise UserError(f"Cannot write in {final.parent}: {error.strerror}.") from error
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):  # the first parent that is in use by now ends the clearing
            for parent in missing:
                parent.rmdir()
        raise
    finally:
        _unlock(lock)


def _make_locked(final: Path) -> tuple[Path, int | None]:
    """A new hidden sibling of ``final`` and the descriptor that locks it."""
    while True:
        partial = _unused_name(final, "partial")
        partial.mkdir()
        lock = _lock(partial)
        if partial.exists():  # else another process took it for a leftover before it was locked
            return partial, lock
        _unlock(lock)


def _unused_name(final: Path, suffix: str) -> Path:
    names = (f".{short_name(final)}.{os.getpid()}-{number}.{suffix}" for number in count())
    return next(path for path in map(final.with_name, names) if not path.exists())


def _free_name(final: Path, suffix: str) -> Path:
    """A visible sibling's name that nothing has."""
    names = (f"{short_name(final)}.{suffix}{f'-{number}' if number else ''}" for number in count())
    return next(path for path in map(final.with_name, names) if not path.exists())


def _lock(directory: Path) -> int | None:
    """Lock ``directory`` for this process: a descriptor, or None where it is locked or cannot be."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _unlock(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def _remove_leftovers(final: Path) -> None:
    pattern = re.compile(rf"\.{re.escape(short_name(final))}\.\d+-\d+\.(partial|replaced)")
    siblings = list(final.parent.iterdir()) if final.parent.is_dir() else []
    for sibling in siblings:
        if not pattern.fullmatch(sibling.name):
            continue
        lock = _lock(sibling)
        if lock is None:
            continue
        if sibling.suffix == ".replaced" and not final.exists():
            sibling.rename(final)  # its process died before the new content took its place
        else:
            shutil.rmtree(sibling, ignore_errors=True)
        _unlock(lock)


def _move_into_place(partial: Path, final: Path, *, overwrite: bool) -> None:
    aside = lock = None
    if overwrite and _occupied(final):
        lock = _lock(final)  # follows the directory to its new name: no other process takes it for a leftover
        aside = final.rename(_unused_name(final, "replaced"))
    try:
        partial.rename(final)
    except BaseException as error:
        if aside is not None:
            aside.rename(final)
        if isinstance(error, OSError) and error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise OutputExistsError(f"{final} was written by something else meanwhile; it was kept.") from error
        raise
    finally:
        _unlock(lock)
    _sync(final.parent)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


def _sync_tree(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file() or path.is_dir():
            _sync(path)
    _sync(directory)


def _sync(path: Path) -> None:
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return  # Windows cannot open directories
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
