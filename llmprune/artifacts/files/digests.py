"""What a file held when it was written: its size and its SHA-256."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_BUFFER = 1 << 20  # bytes


@dataclass(frozen=True)
class FileDigest:
    """What tells whether a file is still the one that was written.

    Attributes:
        nbytes: its size in bytes.
        sha256: of its content, as 64 hexadecimal digits.
    """

    nbytes: int
    sha256: str

    @classmethod
    def of_bytes(cls, content: bytes) -> Self:
        """Of a file with this content."""
        return cls(len(content), hashlib.sha256(content).hexdigest())

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """Of a file as it is now.

        Raises:
            OSError: it cannot be read.
        """
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
            return cls(file.tell(), digest.hexdigest())


def copy_file(source: Path, target: Path) -> FileDigest:
    """Copy a file to a new place, and tell what was written there.

    Raises:
        OSError: it cannot be read, or not be written.
    """
    digest, nbytes = hashlib.sha256(), 0
    with source.open("rb") as file, target.open("xb") as copy:
        while piece := file.read(_BUFFER):
            copy.write(piece)
            digest.update(piece)
            nbytes += len(piece)
    return FileDigest(nbytes, digest.hexdigest())
