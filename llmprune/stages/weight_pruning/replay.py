"""A block that is run again and again while its layers are pruned one after another, finished parts passed by.

Each group of layers must see what the block gives with everything before it pruned. Attention and feed-forward network
still run once each: what goes into a part's last layer is kept when that layer's inputs are gathered, and stands for
the part from then on. A block in which no such part is seen runs from its beginning each time, with the same result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from llmprune.artifacts.files.spill import SpillingStore
from llmprune.models.block_linears import inputs_noted
from llmprune.models.open_block import OpenBlock
from llmprune.models.shortcuts import Shortcut, passed_by
from llmprune.stages.weight_pruning.streams import Batch


class Replay:
    """Runs of an open block.

    Args:
        block: open.
        shortcuts: ways past its parts.
        order: paths of its layers and experts in order of use.
        pruned: those that are going to be pruned.
        store: where the inputs and outputs of last layers are kept.
    """

    def __init__(
        self,
        block: OpenBlock,
        shortcuts: Iterable[Shortcut],
        order: Sequence[str],
        pruned: Iterable[str],
        store: SpillingStore,
    ) -> None:
        self._block = block
        self._shortcuts = tuple(shortcuts)
        self._order = tuple(order)
        self._open = set(pruned)
        self._store = store

    def finish(self, paths: Iterable[str]) -> None:
        """Note that layers or experts have their final weights."""
        self._open.difference_update(paths)

    @contextmanager
    def running(self, batch: Batch, *, last: bool = False) -> Iterator[None]:
        """Finished parts are passed by while the block runs on ``batch``; with ``last`` nothing is kept for later."""
        known = {one: self._output(one, batch) for one in self._shortcuts if self._is_passable(one, batch)}
        noted = () if last else self._ready(batch)
        modules = {path: self._block.module.get_submodule(path) for path in noted}
        with passed_by(self._block, known), inputs_noted(modules, lambda path, value: self._keep(path, batch, value)):
            yield
        if last:
            for one in self._shortcuts:
                self._store.drop(_key(one.layer, batch))

    def _ready(self, batch: Batch) -> Iterator[str]:
        """Paths of last layers that are given what they will be given in the end, where that is not known yet."""
        for layer in (one.layer for one in self._shortcuts):
            before = self._order[: self._order.index(layer)]
            if self._open.isdisjoint(before) and _key(layer, batch) not in self._store:
                yield layer

    def _is_passable(self, shortcut: Shortcut, batch: Batch) -> bool:
        return shortcut.layer not in self._open and _key(shortcut.layer, batch) in self._store

    def _keep(self, path: str, batch: Batch, value: Tensor) -> None:
        # On the CPU what is wider than the hidden states, an FFN's activations, goes to a file: it is read once, and
        # would be most of what is in memory.
        narrow = value.shape[-1] <= batch.pruned.shape[-1]
        self._store.put(_key(path, batch), {"inputs": value}, keep=narrow or value.device.type != "cpu")

    def _output(self, shortcut: Shortcut, batch: Batch) -> Tensor:
        """What the part gives; made of the last layer's inputs at the first time, and kept in place of them."""
        kept = self._store.get(_key(shortcut.layer, batch))
        if "inputs" in kept:
            kept = {"outputs": self._block.give(shortcut.layer, kept["inputs"])}
            self._store.put(_key(shortcut.layer, batch), kept)
        return kept["outputs"]


def _key(path: str, batch: Batch) -> str:
    return f"{path}-given-{batch.place}"
