"""The machine that a measurement was made on."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from llmprune.artifacts.records.bench import Machine
from llmprune.models.devices import makes_tf32_products

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def describe_machine(device: torch.device, attention: Iterable[str] = ()) -> Machine:
    """Processor or GPU, threads, memory, versions, and the attention kernels that the models use."""
    on_gpu = device.type == "cuda"
    memory = torch.cuda.get_device_properties(device).total_memory if on_gpu else psutil.virtual_memory().total
    return Machine(
        processor=torch.cuda.get_device_name(device) if on_gpu else _processor(),
        threads=torch.get_num_threads(),
        memory_bytes=memory,
        system=platform.platform(),
        python=platform.python_version(),
        cuda=torch.version.cuda if on_gpu else None,
        attention=tuple(dict.fromkeys(attention)),
        tf32=makes_tf32_products(device),
    )


def attention_kernel(model: PreTrainedModel) -> str:
    """A model's attention kernel by its name in transformers, which has no public attribute for its choice."""
    return str(getattr(model.config, "_attn_implementation", None) or "the model's own")


def _processor() -> str:
    """The processor's name, on Linux from /proc/cpuinfo, elsewhere from Python."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
