"""How much memory may be used: what is free less a margin, or within a budget that was typed."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

import psutil

from llmprune.artifacts.files.sizes import parse_size
from llmprune.errors import TargetError

_MARGIN = 0.1  # of what is free stays free, for whatever else the machine does


@dataclass(frozen=True)
class MemoryBudget:
    """Most memory that a command may use, its own program included; None: what is free.

    Attributes:
        device: bytes of the memory of the device that computes.
        host: bytes of the host's memory, where the device has its own.
    """

    device: int | None = None
    host: int | None = None


def parse_memory_budget(typed: str | None) -> MemoryBudget:
    """Read ``--memory-budget``: ``12GB``, or ``12GB,48GB`` for a device and the host beside it.

    Raises:
        TargetError: not one or two sizes.
    """
    if typed is None:
        return MemoryBudget()
    sizes = typed.split(",")
    if len(sizes) > 2:
        raise TargetError(
            f"`memory_budget={typed:.60}` is more than two sizes; type for example `memory_budget=12GB`, or "
            "`memory_budget=12GB,48GB` for a device and the host."
        )
    return MemoryBudget(*map(parse_size, sizes))


def host_free_bytes(budget: int | None) -> int:
    """Memory of the host that this process may still take."""
    return still_free(psutil.virtual_memory().available, psutil.Process().memory_info().rss, budget)


def still_free(free: int, used: int, budget: int | None) -> int:
    """Bytes that may still be taken where so many are free and ``used`` are this process's own."""
    left = int((1 - _MARGIN) * free)
    return left if budget is None else max(0, min(left, budget - used))


def give_back_freed_memory() -> None:
    """Let the C library return freed memory to the system: it keeps holes that something small was put into.

    Without it a pass over a model leaves a hole of the size of an activation behind for every block.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
