"""Small files that came from anywhere, read whole: regular ones of a bounded size, and JSON with bounded numbers."""

import errno
import json
import os
import stat
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

MAX_BYTES = 100_000_000  # more than any config, index or artifact; also the limit of safetensors for a header
_OF_THE_MACHINE = {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_MAX_DIGITS = 40  # of a whole number in JSON; reading and printing more takes time that grows with their square


def open_regular(path: Path) -> FileIO:
    """Open a file for unbuffered reading, without waiting for anybody.

    Raises:
        OSError: there is none, it may not be read, or it is a pipe, a socket or a device.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return FileIO(str(path), "rb", opener=lambda *_: descriptor)
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is no regular file", str(path))


def raise_if_of_the_machine(error: Exception) -> None:
    """Raise what tells nothing of a file: a disk that does not answer, or too little of something to read it now."""
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        raise error


def read_small(path: Path, *, most: int = MAX_BYTES) -> bytes:
    """The content of a file.

    Raises:
        OSError: as `open_regular`, or the file has more than ``most`` bytes.
    """
    pieces, left = [], most + 1
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        while left and (piece := file.read(min(left, max(size + 1, 1 << 16)))):  # of most files, one
            pieces.append(piece)
            left -= len(piece)
    if not left:
        raise OSError(errno.EINVAL, f"it has more than {most:,} bytes", str(path))
    return b"".join(pieces)


def parse_json(text: bytes, *, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse UTF-8 as JSON. Infinity and NaN are numbers, as Python writes them.

    Args:
        text: the file's content.
        pairs: makes something of an object's members; None: a dictionary.

    Raises:
        ValueError: no UTF-8, no JSON, a whole number of more than 40 digits, or brackets too deep in one another.
    """
    try:
        return json.loads(text.decode("utf-8"), parse_int=_bounded_int, object_pairs_hook=pairs)
    except RecursionError as error:
        raise ValueError("too many brackets in one another") from error


def _bounded_int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
