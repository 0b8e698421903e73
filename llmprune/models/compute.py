"""Where and in what to compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from llmprune.choices import DEVICE, DeviceMap, Dtype
from llmprune.errors import TargetError
from llmprune.models.devices import find_device, numbered
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
_SLOW = 0.8  # times as fast as float32: clear enough to be no accident of timing


@dataclass(frozen=True)
class Compute:
    """A device, and a dtype (None: the one that a checkpoint is stored in).

    Attributes:
        device: ``cpu``, or a GPU with its number. ``cuda`` becomes the GPU that torch means by it, ``cuda:0`` as a
            rule, so that what is measured on one device says so in one way.
        dtype: what to compute in.
        budget: most memory to use.
        device_map: where whole models that write text lie.
        ranks: the processes that work together, this one among them.
    """

    device: torch.device
    dtype: torch.dtype | None = None
    budget: MemoryBudget = field(default_factory=MemoryBudget)
    device_map: DeviceMap = DeviceMap.NONE
    ranks: Ranks = ALONE

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", numbered(self.device))

    def here(self) -> Compute:
        """The same on this rank: a GPU of its own."""
        if self.device.type == "cpu" or self.ranks.size == 1:
            return self
        return replace(self, device=torch.device(self.device.type, self.ranks.local_rank))

    @property
    def batch_tokens(self) -> int:
        """Tokens that keep the device busy in one forward pass of a block; more would only take memory."""
        return 2048 if self.device.type == "cpu" else 16384

    def batch_windows(self, seq_len: int) -> int:
        """Windows of ``seq_len`` tokens, one at least, that keep the device busy in one forward pass of a block."""
        return max(1, self.batch_tokens // seq_len)

    def gain(self, dtype: torch.dtype) -> Speedup | None:
        """How many times as fast as in float32 the device multiplies in ``dtype``; None: the times do not tell.

        Timed, for what a processor says that it has does not tell: an Intel Xeon with AVX512-BF16 was seen to multiply
        bfloat16 half as fast as float32.
        """
        products = [self._product(torch.float32), self._product(dtype)]
        float32, other = time_in_turn(products, self.device, least=_LEAST, most=_MOST, enough=_ENOUGH)
        return speedup(float32, other)

    def slower_dtype(self, dtype: torch.dtype) -> str | None:
        """A remark where the device multiplies a narrower dtype clearly more slowly than float32.

        No figure is told: what was timed is a moment of this machine, and not the work that follows.
        """
        if dtype.itemsize >= torch.float32.itemsize:
            return None
        gain = self.gain(dtype)
        if gain is None or gain.high >= _SLOW:
            return None
        return (
            f"This machine multiplies {dtype_name(dtype)} more slowly than float32: `dtype=float32` would be faster, "
            "and takes twice the memory."
        )

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
        if self.device.type in ("cpu", "mps"):  # whose memory is the host's
            return host_free_bytes(self.budget.device) // self.ranks.neighbours
        free, used = torch.accelerator.get_memory_info(self.device)[0], torch.accelerator.memory_allocated(self.device)
        return still_free(free, used, self.budget.device)

    @property
    def spread(self) -> bool:
        """Whether whole models lie on all GPUs and the host."""
        return self.device_map is DeviceMap.AUTO

    def memory_map(self) -> dict[int | str, int]:
        """Memory that whole models which are spread may take: of each GPU by its number, and of the host."""
        gpus = range(torch.cuda.device_count())
        free: dict[int | str, int] = {
            number: Compute(torch.device("cuda", number), budget=self.budget).free_bytes() for number in gpus
        }
        return {**free, "cpu": host_free_bytes(self.budget.host if free else self.budget.device)}

    def free_whole_bytes(self) -> int:
        """Memory that whole models may take."""
        return sum(self.memory_map().values()) if self.spread else self.free_bytes()

    def free_host_bytes(self) -> int:
        """The same of the host's memory beside a device's own; 0 where the device is the host."""
        if self.device.type in ("cpu", "mps"):
            return 0
        return host_free_bytes(self.budget.host) // self.ranks.neighbours


def choose_compute(
    device: str = DEVICE,
    dtype: str = Dtype.AUTO,
    memory_budget: str | None = None,
    device_map: DeviceMap = DeviceMap.NONE,
) -> Compute:
    """Read the ``--device``, ``--dtype``, ``--memory-budget`` and ``--device-map`` options.

    Args:
        device: see ``devices.find_device``.
        dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
        memory_budget: see ``parse_memory_budget``; None: what is free.
        device_map: where whole models that write text lie.

    Raises:
        TargetError: no such device, dtype or size.
    """
    if dtype != Dtype.AUTO and dtype not in _DTYPES:
        raise TargetError(f"'{dtype}' is not a dtype to compute in; type auto, {', '.join(_DTYPES)}.")
    ranks = joined()
    chosen = find_device(device)
    return Compute(chosen, _DTYPES.get(dtype), parse_memory_budget(memory_budget), device_map, ranks)


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")
