"""Byte ranges of files: read and written."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path

from llmprune.artifacts.files.reading import open_regular
from llmprune.errors import CheckpointError


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
