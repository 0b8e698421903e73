"""How long a path may be."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_LONGEST = Path("x" * 255, "x" * 64)  # of what lies in a directory: a folder of any name, and a file of ours in it


def require_room_for_names(directory: Path) -> None:
    """See, before what takes long, that the files of a directory would have paths that the file system allows.

    Raises:
        OSError: they would be too long (``ENAMETOOLONG``).
    """
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        (directory / _LONGEST).lstat()
