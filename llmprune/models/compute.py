"""Where and in what to compute."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from llmprune.errors import TargetError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_TRIES, _ENOUGH = 10, 0.05  # products to time a dtype with, and seconds after which no other begins


@dataclass(frozen=True)
class Compute:
    """A device, and a dtype (None: the one that a checkpoint is stored in)."""

    device: torch.device
    dtype: torch.dtype | None = None

    @property
    def batch_tokens(self) -> int:
        """Tokens that keep the device busy in one forward pass of a block; more would only take memory."""
        return 2048 if self.device.type == "cpu" else 16384

    def gain(self, dtype: torch.dtype) -> float:
        """How many times as fast as in float32 the device multiplies in ``dtype``, timed in under a second.

        What a processor says that it has does not tell: an Intel Xeon with AVX512-BF16 was seen to multiply
        bfloat16 half as fast as float32.
        """
        return self._product_seconds(torch.float32) / self._product_seconds(dtype)

    def _product_seconds(self, dtype: torch.dtype) -> float:
        """The fastest of a few products of matrices of the size of a small block's.

        Where a processor has no instructions for ``dtype``, one takes hundreds of times as long: it is enough.
        """
        factor = torch.ones(512, 512, dtype=dtype, device=self.device)
        seconds: list[float] = []
        while len(seconds) < _TRIES and sum(seconds) < _ENOUGH:
            began = time.perf_counter()
            float((factor @ factor)[0, 0])  # reading a number waits for the device
            seconds.append(time.perf_counter() - began)
        return min(seconds)

    def free_bytes(self) -> int:
        """Memory of the device that can be had now."""
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0]
        return int(psutil.virtual_memory().available)


def choose_compute(device: str = "auto", dtype: str = "auto") -> Compute:
    """Read the ``--device`` and ``--dtype`` options.

    Args:
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:1``.
        dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        TargetError: no such device or dtype.
    """
    if dtype != "auto" and dtype not in _DTYPES:
        raise TargetError(f"'{dtype}' is not a dtype to compute in; type auto, {', '.join(_DTYPES)}.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise TargetError(f"'{device}' is not a device; type auto, cpu or cuda.") from None
    if chosen.type not in ("cpu", "cuda") or (chosen.type == "cpu" and chosen.index):
        raise TargetError(f"'{device}' is not a device that llmprune computes on; type auto, cpu or cuda.")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise TargetError(f"This machine has no device '{device}' that torch can use; type --device cpu.")
    return Compute(chosen, _DTYPES.get(dtype))


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
