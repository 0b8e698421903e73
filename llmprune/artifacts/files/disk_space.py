"""What is said when bytes do not fit on the disk."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmprune.artifacts.files.sizes import format_size
from llmprune.errors import LlmpruneError
from llmprune.quiet import system_errno

_FULL = {
    errno.ENOSPC: "is full",
    errno.EDQUOT: "has reached your quota",
    errno.EFBIG: "has reached the limit on a file's size",
}


@contextmanager
def explain_full_disk(path: Path, *, needed: int | None = None) -> Iterator[None]:
    """Turn "no space left", in any form, into one sentence about the disk that holds ``path``.

    Args:
        path: what is being written.
        needed: bytes that the whole output takes, when known.

    Raises:
        LlmpruneError: the disk, the quota or the file size limit is exhausted.
    """
    try:
        yield
    except Exception as error:
        number = _full_errno(error)
        if number is None:
            raise
        raise _disk_full(path, needed, number) from error


def require_free_space(path: Path, needed: int) -> None:
    """Refuse, before it starts, a write of ``needed`` bytes that the disk holding ``path`` cannot take.

    Raises:
        LlmpruneError: fewer than ``needed`` bytes are free.
    """
    if free_space(path) < needed:
        raise _disk_full(path, needed, errno.ENOSPC)


def free_space(path: Path) -> int:
    """Bytes that the disk holding ``path``, which need not exist yet, can take."""
    return shutil.disk_usage(existing_folder(path)).free


def existing_folder(path: Path) -> Path:
    """``path``, or else the nearest folder above it that is there."""
    return next(place for place in (path, *path.absolute().parents) if place.is_dir())


def is_full_disk(error: Exception) -> bool:
    """Whether ``error`` says, by number or in its text, that there is no room for more bytes."""
    return _full_errno(error) is not None


def _full_errno(error: Exception) -> int | None:
    if isinstance(error, LlmpruneError):
        return None  # explained already, nearer to the write
    number = system_errno(error)
    return number if number in _FULL else None


def _disk_full(path: Path, needed: int | None, number: int) -> LlmpruneError:
    place, free = existing_folder(path), format_size(free_space(path))
    numbers = f"{free} left" if needed is None else f"{format_size(needed)} needed, {free} left"
    return LlmpruneError(
        f"The disk that holds {place} {_FULL[number]} ({numbers}). What was there before is intact: "
        "make room, or write to another disk."
    )
