"""Looking at weights in a second thread while they pass by: the SHA-256 of their files, and NaN and infinity.

Both ways of reading a checkpoint from front to back, a copy and a check, are made of this.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Container, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Self

import numpy as np
from numpy.typing import NDArray

from llmprune.artifacts.checkpoints.finiteness import piece_is_finite
from llmprune.artifacts.checkpoints.header import TensorEntry
from llmprune.artifacts.files.digests import FileDigest

PIECE = 1 << 20
"""Bytes of the largest piece: stays in a core's own cache, and is a multiple of 8 elements of every dtype."""
_WAITING = 8  # pieces that may wait to be looked at


class Watcher:
    """Sums up one file after the other, given in the order of its bytes.

    Args:
        finite: names of the tensors in which to look for NaN and infinity.
    """

    def __init__(self, finite: Container[str] = ()) -> None:
        self._finite = finite
        self._free = [np.empty(PIECE, np.uint8) for _ in range(_WAITING)]
        self._waiting: deque[tuple[NDArray[np.uint8], Future[None]]] = deque()
        self._digest, self._nbytes = hashlib.sha256(), 0
        self._found: dict[str, None] = {}
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def non_finite(self) -> list[str]:
        """Names of the tensors with NaN or infinity, of all files that are done, in the order of their bytes."""
        return list(self._found)

    def add(self, content: bytes) -> None:
        """Go on with bytes that belong to no tensor: the header of a file."""
        self._digest.update(content)
        self._nbytes += len(content)

    @contextmanager
    def piece(self, entry: TensorEntry, nbytes: int) -> Iterator[NDArray[np.uint8]]:
        """A buffer for the next ``nbytes`` of a tensor. It is looked at once the caller has filled and left it."""
        buffer = self._free.pop() if self._free else self._oldest()
        yield buffer[:nbytes]
        self._nbytes += nbytes
        self._waiting.append((buffer, self._pool.submit(self._look, entry, buffer[:nbytes])))

    def file_done(self) -> FileDigest:
        """What was in the file that ends here; the next piece begins another one."""
        while self._waiting:
            self._free.append(self._oldest())
        done = FileDigest(self._nbytes, self._digest.hexdigest())
        self._digest, self._nbytes = hashlib.sha256(), 0
        return done

    def _oldest(self) -> NDArray[np.uint8]:
        buffer, looked_at = self._waiting.popleft()
        looked_at.result()
        return buffer

    def _look(self, entry: TensorEntry, piece: NDArray[np.uint8]) -> None:
        self._digest.update(piece.data)
        if entry.name in self._finite and entry.name not in self._found and not piece_is_finite(piece, entry.dtype):
            self._found[entry.name] = None
