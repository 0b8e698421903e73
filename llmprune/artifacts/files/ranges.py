"""Byte ranges of files: read, written and copied."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path

from llmprune.artifacts.files.reading import open_regular
from llmprune.errors import CheckpointError

# What a kernel or a file system answers when it cannot copy between these two files by itself.
_REFUSALS = {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EBADF}
_BUFFER = 16 << 20  # bytes


@contextmanager
def open_shards(paths: Iterable[Path]) -> Iterator[dict[Path, FileIO]]:
    """Open every path for unbuffered reading: path -> file.

    Raises:
        CheckpointError: a file can no longer be opened.
    """
    with ExitStack() as stack:
        files: dict[Path, FileIO] = {}
        for path in paths:
            try:
                files[path] = stack.enter_context(open_regular(path))
            except OSError as error:
                raise CheckpointError(f"{path} can no longer be read: {error.strerror}.") from error
        yield files


def read_into(file: FileIO, start: int, buffer: memoryview) -> None:
    """Fill ``buffer`` (bytes) from the absolute offset ``start`` of ``file``.

    Raises:
        CheckpointError: the file ends before the buffer is full.
    """
    file.seek(start)
    while buffer:
        count = file.readinto(buffer)
        if not count:
            raise CheckpointError(f"{file.name!s} became shorter while it was read.")
        buffer = buffer[count:]


def read_range(file: FileIO, start: int, end: int) -> bytes:
    """The bytes from ``start`` up to ``end`` (absolute offsets) of ``file``; raises as `read_into` does."""
    content = bytearray(end - start)
    read_into(file, start, memoryview(content))
    return bytes(content)


def write_fully(file: FileIO, content: memoryview | bytes) -> None:
    """Write all of ``content`` at the position of ``file``; one call of the system writes 2 GiB at most."""
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]


def copy_range(source: FileIO, start: int, end: int, output: FileIO) -> None:
    """Write bytes ``start`` to ``end`` (absolute offsets) of ``source`` at the position of ``output``.

    The kernel copies them where it can, else they pass through a buffer of at most 16 MiB.

    Raises:
        CheckpointError: ``source`` ends before ``end``.
        OSError: writing failed.
    """
    start = _copy_in_kernel(source, start, end, output)
    buffer = memoryview(bytearray(min(_BUFFER, end - start)))
    while start < end:
        piece = buffer[: end - start]
        read_into(source, start, piece)
        write_fully(output, piece)
        start += len(piece)


def _copy_in_kernel(source: FileIO, start: int, end: int, output: FileIO) -> int:
    """Copy as much as the kernel takes; the offset up to which it did."""
    if not hasattr(os, "copy_file_range"):
        return start
    try:
        while start < end:
            count = os.copy_file_range(source.fileno(), output.fileno(), end - start, offset_src=start)
            if count == 0:  # the end of the source, or a file system that only pretends
                break
            start += count
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
    return start
