"""Devices that torch computes on: one name for each, waiting for them, and the precision of their matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from llmprune.choices import DEVICE
from llmprune.errors import TargetError

_TYPE_ONE = "type auto, cpu or cuda."
_TESTED = ("cpu", "cuda")
_HALF = (torch.bfloat16, torch.float16)


def find_device(asked: str) -> torch.device:
    """Read ``--device``: ``auto`` (CUDA where there is one), ``cpu``, or an accelerator that torch names here.

    Raises:
        TargetError: there is no such device.
    """
    if asked == DEVICE:
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise TargetError(f"'{asked}' is not a device; {_TYPE_ONE}") from None
    if device.type == "cpu" and not device.index:
        return numbered(device)
    if (device.index or 0) >= _count(device.type):
        raise TargetError(f"This machine has no device '{asked}' that torch computes on; {_TYPE_ONE}")
    return numbered(device)


def numbered(device: torch.device) -> torch.device:
    """A device by the one name that it has in artifacts and protocols: ``cuda`` is the GPU that torch means by it."""
    if device.type in ("cpu", "meta"):
        return torch.device(device.type)
    if device.index is not None:
        return device
    if device.type == "cuda":
        return torch.device("cuda", torch.cuda.current_device() if torch.cuda.is_available() else 0)
    return torch.device(device.type, torch.accelerator.current_device_index())


def untested(device: torch.device) -> str | None:
    """What is to be said of a device that llmprune was never run on."""
    if device.type in _TESTED:
        return None
    return (
        f"llmprune was never tried on '{device.type}', though torch computes on it: compare a small run with "
        "`device=cpu`."
    )


def wait_for(device: torch.device) -> None:
    """Return once everything queued on ``device`` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def exact_products() -> Iterator[None]:
    """Float32 matrix products in float32 while the context lasts, whatever the environment has set for CUDA (TF32)."""
    with _precision(torch.backends.cuda.matmul, "ieee"):
        yield


def rounds_to_tf32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether ``half_products`` of a dtype rounds float32 products on a device to TF32."""
    return device.type == "cuda" and dtype in _HALF


@contextmanager
def half_products(dtype: torch.dtype) -> Iterator[None]:
    """Float32 matrix products whose factors may be rounded to no fewer digits than ``dtype`` has; sums are float32.

    Exact for factors that were of that dtype before. On CUDA that is TF32 for bfloat16 and float16: it has the digits
    of float16 and the range of float32. On the CPU it is oneDNN's bfloat16, for bfloat16 alone. A processor without AMX
    rounds nothing: it takes oneDNN's float32 kernels, which an AMD EPYC ran 1.4 times as fast as MKL's. For another
    dtype CUDA computes in float32, as in `exact_products`, and nothing changes on the CPU.
    """
    on_cpu: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    with (
        _precision(torch.backends.cuda.matmul, "tf32" if dtype in _HALF else "ieee"),
        _precision(on_cpu, "bf16" if dtype is torch.bfloat16 else on_cpu.fp32_precision),
    ):
        yield


def makes_tf32_products(device: torch.device) -> bool | None:
    """Whether float32 products are rounded to TF32 here and now; None: the device knows no TF32."""
    if device.type != "cuda":
        return None
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")  # where it says none, what is set for all backends


@contextmanager
def _precision(products: Any, wanted: str) -> Iterator[None]:
    before = products.fp32_precision
    products.fp32_precision = wanted
    try:
        yield
    finally:
        products.fp32_precision = before


def _count(kind: str) -> int:
    """How many devices of a kind torch computes on here."""
    if kind == "cuda":
        return torch.cuda.device_count()
    here = torch.accelerator.current_accelerator(check_available=True)
    return torch.accelerator.device_count() if here is not None and here.type == kind else 0
