"""Where the weights of a model's blocks are between their uses, and how the next ones come while others compute.

A block is kept on the device, in host memory (pinned where a device copies from it), or nowhere: then it is read from
its files whenever it is opened. Which of them is decided once, from a budget, before a walk that opens blocks again and
again. Whatever is decided, a block computes with the same weights.

While one block is open a thread fetches the next one. So reading takes no time as long as computing takes longer, and
memory holds one block more than those that are open.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Fetched:
    """The weights of one block.

    Attributes:
        stored: by name, as they are in the files, in host memory; None: it was kept, and nothing was read.
        on_device: the same on the device; of a kept block its parameters, by their path in the block.
    """

    stored: Tensors | None
    on_device: Tensors


class Residency:
    """The blocks of one model that is read from files.

    Args:
        sizes: bytes of each block as it is computed with.
        device: where blocks are computed.
    """

    def __init__(self, sizes: Sequence[int], device: torch.device) -> None:
        self.sizes = tuple(sizes)
        self.bytes_read, self.read_seconds = 0, 0.0
        self._sizes_read = 0
        self._device = device
        self._order: tuple[int, ...] = ()
        self._on_device: frozenset[int] = frozenset()
        self._on_host: frozenset[int] = frozenset()
        self._kept: dict[int, Tensors] = {}
        self._ahead: tuple[int, Future[Fetched]] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def keep(self, *, device: int, host: int) -> None:
        """Decide which blocks stay once they were opened: the first ones on the device, the next ones on the host.

        Args:
            device: bytes of its memory that blocks may take.
            host: the same of the host's; 0 where the device is the host.
        """
        first = blocks_that_fit(self.sizes, device)
        second = blocks_that_fit(self.sizes, host, first=first)
        self._on_device, self._on_host = frozenset(range(first)), frozenset(range(first, second))

    @property
    def pass_seconds(self) -> float:
        """Seconds that reading takes in a walk over the expected blocks, at the speed that was seen."""
        read = sum(self.sizes[index] for index in self._order if index not in self._on_device | self._on_host)
        return read * self.read_seconds / self._sizes_read if read else 0.0

    def expect(self, blocks: Sequence[int]) -> None:
        """From now on just these blocks are opened, in this order. Until it is told, nothing is fetched ahead."""
        self._order = tuple(blocks)

    def forget(self) -> None:
        """Whatever was fetched or kept is of other files."""
        if self._ahead is not None:
            self._ahead[1].exception()
        self._ahead, self._kept = None, {}

    def take(self, index: int, read: Callable[[int], Tensors]) -> Fetched:
        """The weights of a block that is opened now; the one after it is fetched from here on.

        Args:
            index: which block.
            read: reads the tensors of a block into host memory; it runs in a thread too.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == index:
            fetched = ahead[1].result()
        else:
            if ahead is not None:
                ahead[1].exception()  # it was not the next one after all: it makes room before another is fetched
            fetched = self._fetch(index, read)
        self._fetch_ahead(index, read)
        return fetched

    def put(self, index: int, parameters: Tensors) -> None:
        """Keep a block's parameters, by their path in the block, if it is one that is kept."""
        if index in self._on_device:
            self._kept[index] = dict(parameters)
        elif index in self._on_host:
            self._kept[index] = {
                path: torch.empty_like(value, device="cpu", pin_memory=self._copies is not None).copy_(value)
                for path, value in parameters.items()
            }

    def _fetch_ahead(self, index: int, read: Callable[[int], Tensors]) -> None:
        after = self._order.index(index) + 1 if index in self._order else len(self._order)
        if after == len(self._order) or self._order[after] in self._kept.keys() & self._on_device:
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="llmprune-blocks")
        following = self._order[after]
        self._ahead = following, self._thread.submit(self._fetch, following, read)

    def _fetch(self, index: int, read: Callable[[int], Tensors]) -> Fetched:
        if index in self._kept:
            return Fetched(None, self._copied(self._kept[index]))
        began = time.perf_counter()
        stored = read(index)
        self.read_seconds += time.perf_counter() - began
        self.bytes_read += sum(tensor.nbytes for tensor in stored.values())
        self._sizes_read += self.sizes[index]
        return Fetched(stored, self._copied(stored))

    def _copied(self, tensors: Tensors) -> Tensors:
        """Tensors on the device; on CUDA copied in a stream of their own, beside what is computed."""
        if self._copies is None:
            return {name: tensor.to(self._device) for name, tensor in tensors.items()}
        with torch.cuda.stream(self._copies):
            copied = {name: tensor.to(self._device, non_blocking=True) for name, tensor in tensors.items()}
        self._copies.synchronize()
        for tensor in copied.values():
            tensor.record_stream(torch.cuda.default_stream(self._device))
        return copied


def blocks_that_fit(sizes: Sequence[int], room: int, *, first: int = 0) -> int:
    """Behind which block, counted from ``first`` on, ``room`` bytes are full."""
    for index in range(first, len(sizes)):
        room -= sizes[index]
        if room < 0:
            return index
    return len(sizes)
