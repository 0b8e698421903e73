"""The tokens of an FFN's pruning problem, in a store."""

from __future__ import annotations

from llmprune.algorithms.feed_forward.network import FfnChunk
from llmprune.artifacts.files.spill import SpillingStore


class StoredChunks:
    """An FFN's chunks of tokens in a store."""

    def __init__(self, store: SpillingStore, *, prefix: str) -> None:
        self._store, self._prefix, self._count = store, prefix, 0

    def append(self, chunk: FfnChunk) -> None:
        """Put a chunk behind the last one."""
        self._count += 1
        self[self._count - 1] = chunk

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int, /) -> FfnChunk:
        return FfnChunk(**self._store.get(f"{self._prefix}-{index}"))

    def __setitem__(self, index: int, chunk: FfnChunk, /) -> None:
        tensors = {name: tensor for name, tensor in vars(chunk).items() if tensor is not None}
        self._store.put(f"{self._prefix}-{index}", tensors)

    def clear(self) -> None:
        """Forget all chunks."""
        for index in range(self._count):
            self._store.drop(f"{self._prefix}-{index}")
        self._count = 0
