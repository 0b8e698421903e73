"""On what a measurement was made."""

from __future__ import annotations

import platform
from pathlib import Path

import psutil
import torch


def describe_machine(device: torch.device) -> str:
    """Processor or GPU, threads and memory, for people who compare numbers."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    memory = psutil.virtual_memory().total / 2**30
    return f"{_processor()}, {torch.get_num_threads()} threads, {memory:.0f} GiB"


def _processor() -> str:
    """The processor's name: Linux keeps it in a file, elsewhere Python knows it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
