"""The tokens of an FFN's pruning problem, in a store.

What never changes (inputs, outputs, scale) lies apart from z and s, which every round replaces. All of it is kept in
the dtype that the model computes in. What pruned weights give is kept only where memory has room for it: it can be
computed again.
"""

from __future__ import annotations

from torch import Tensor

from llmprune.algorithms.feed_forward.network import FfnChunk
from llmprune.artifacts.files.spill import SpillingStore

_PARTS = ("fixed", "scale", "auxiliary", "own")


class StoredChunks:
    """An FFN's chunks of tokens in a store."""

    def __init__(self, store: SpillingStore, *, prefix: str) -> None:
        self._store, self._prefix, self._count = store, prefix, 0

    def begin(self, index: int, up: Tensor, gate: Tensor | None) -> None:
        """Put z and s of a chunk whose inputs and outputs are still to come."""
        self._store.put(self._key(index, "auxiliary"), _there(up=up, gate=gate))

    def finish(self, inputs: Tensor, outputs: Tensor) -> FfnChunk:
        """Put inputs and outputs of the next chunk that was begun; returns it."""
        begun = self._store.get(self._key(self._count, "auxiliary"))
        fixed = _there(inputs=inputs, outputs=outputs.to(inputs.dtype))
        self._store.put(self._key(self._count, "fixed"), fixed)
        self._count += 1
        return FfnChunk(**fixed, **begun)

    def append(self, chunk: FfnChunk) -> FfnChunk:
        """Put a whole chunk behind the last one; returns it as it is kept."""
        narrow = chunk.inputs.dtype
        self.begin(self._count, chunk.up.to(narrow), None if chunk.gate is None else chunk.gate.to(narrow))
        kept = self.finish(chunk.inputs, chunk.outputs)
        if chunk.scale is not None:
            self._store.put(self._key(self._count - 1, "scale"), _there(scale=chunk.scale))
        return FfnChunk(kept.inputs, kept.outputs, kept.up, kept.gate, chunk.scale)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int, /) -> FfnChunk:
        tensors: dict[str, Tensor] = {}
        for key in (self._key(index, part) for part in _PARTS):
            if key in self._store:
                tensors |= self._store.get(key)
        return FfnChunk(**tensors)

    def __setitem__(self, index: int, chunk: FfnChunk, /) -> None:
        """Keep the chunk's z and s, and what pruned weights give, in place of the old ones."""
        self._store.put(self._key(index, "auxiliary"), _there(up=chunk.up, gate=chunk.gate))
        self._store.put_if_room(self._key(index, "own"), _there(own_up=chunk.own_up, own_gate=chunk.own_gate))

    def clear(self) -> None:
        """Forget all chunks."""
        for index in range(self._count):
            for part in _PARTS:
                self._store.drop(self._key(index, part))
        self._count = 0

    def _key(self, index: int, part: str) -> str:
        return f"{self._prefix}-{index}-{part}"


def _there(**tensors: Tensor | None) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}
