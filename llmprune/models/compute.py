"""Where and in what to compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from llmprune.choices import DEVICE, Dtype
from llmprune.errors import TargetError
from llmprune.models.memory import MemoryBudget, host_free_bytes, parse_memory_budget, still_free
from llmprune.models.timing import Speedup, speedup, time_in_turn
from llmprune.ranks.group import ALONE, Ranks, joined

_DTYPES: dict[str, torch.dtype] = {
    Dtype.FLOAT32: torch.float32,
    Dtype.BFLOAT16: torch.bfloat16,
    Dtype.FLOAT16: torch.float16,
}
# Products of each dtype to time: at least, at most, and seconds after which none beyond the least begins.
_LEAST, _MOST, _ENOUGH = 5, 9, 1.0


@dataclass(frozen=True)
class Compute:
    """A device, and a dtype (None: the one that a checkpoint is stored in).

    Attributes:
        device: ``cpu``, or a GPU with its number. ``cuda`` becomes the GPU that torch means by it, ``cuda:0`` as a
            rule, so that what is measured on one device says so in one way.
        dtype: what to compute in.
        budget: most memory to use.
        ranks: the processes that work together, this one among them.
    """

    device: torch.device
    dtype: torch.dtype | None = None
    budget: MemoryBudget = field(default_factory=MemoryBudget)
    ranks: Ranks = ALONE

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", _numbered(self.device))

    def here(self) -> Compute:
        """The same on this rank: a GPU of its own."""
        if self.device.type == "cpu" or self.ranks.size == 1:
            return self
        return replace(self, device=torch.device(self.device.type, self.ranks.local_rank))

    @property
    def batch_tokens(self) -> int:
        """Tokens that keep the device busy in one forward pass of a block; more would only take memory."""
        return 2048 if self.device.type == "cpu" else 16384

    def gain(self, dtype: torch.dtype) -> Speedup | None:
        """How many times as fast as in float32 the device multiplies in ``dtype``; None: the times do not tell.

        Timed, for what a processor says that it has does not tell: an Intel Xeon with AVX512-BF16 was seen to multiply
        bfloat16 half as fast as float32.
        """
        products = [self._product(torch.float32), self._product(dtype)]
        float32, other = time_in_turn(products, self.device, least=_LEAST, most=_MOST, enough=_ENOUGH)
        return speedup(float32, other)

    def _product(self, dtype: torch.dtype) -> Callable[[], Tensor]:
        """A product of matrices of the size of a small block's on the CPU; of a large one's on a GPU, to keep it busy.

        Where a processor has no instructions for ``dtype``, one product takes hundreds of times as long.
        """
        size = 512 if self.device.type == "cpu" else 4096
        factor = torch.ones(size, size, dtype=dtype, device=self.device)
        return lambda: factor @ factor

    def free_bytes(self) -> int:
        """Memory of the device that may still be used now: what is free less a margin, and within the budget."""
        if self.device.type == "cuda":
            used = torch.cuda.memory_allocated(self.device)
            cached = torch.cuda.memory_reserved(self.device) - used
            return still_free(torch.cuda.mem_get_info(self.device)[0] + cached, used, self.budget.device)
        return host_free_bytes(self.budget.device) // self.ranks.neighbours

    def free_host_bytes(self) -> int:
        """The same of the host's memory beside a device's own; 0 where the device is the host."""
        if self.device.type == "cpu":
            return 0
        return host_free_bytes(self.budget.host) // self.ranks.neighbours


def choose_compute(device: str = DEVICE, dtype: str = Dtype.AUTO, memory_budget: str | None = None) -> Compute:
    """Read the ``--device``, ``--dtype`` and ``--memory-budget`` options.

    Args:
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:1``.
        dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
        memory_budget: see ``parse_memory_budget``; None: what is free.

    Raises:
        TargetError: no such device, dtype or size.
    """
    if dtype != Dtype.AUTO and dtype not in _DTYPES:
        raise TargetError(f"'{dtype}' is not a dtype to compute in; type auto, {', '.join(_DTYPES)}.")
    ranks = joined()
    if device == DEVICE:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise TargetError(f"'{device}' is not a device; type auto, cpu or cuda.") from None
    if chosen.type not in ("cpu", "cuda") or (chosen.type == "cpu" and chosen.index):
        raise TargetError(f"'{device}' is not a device that llmprune computes on; type auto, cpu or cuda.")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise TargetError(f"This machine has no device '{device}' that torch can use; type `device=cpu`.")
    return Compute(chosen, _DTYPES.get(dtype), parse_memory_budget(memory_budget), ranks)


def _numbered(device: torch.device) -> torch.device:
    """A device by the one name that it has in artifacts and protocols."""
    if device.type != "cuda":
        return torch.device(device.type)
    if device.index is not None:
        return device
    return torch.device("cuda", torch.cuda.current_device() if torch.cuda.is_available() else 0)


@contextmanager
def bfloat16_products() -> Iterator[None]:
    """Float32 matrix products whose factors may be rounded to bfloat16, summed in float32, while the context lasts.

    Exact for what was bfloat16 before. A processor without AMX rounds nothing: it takes oneDNN's float32 kernels, which
    an AMD EPYC ran 1.4 times as fast as MKL's. It changes nothing on CUDA.
    """
    setting: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")
