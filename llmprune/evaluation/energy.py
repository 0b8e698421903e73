"""Energy of the device that computes, where it counts it: RAPL of Intel and AMD processors, NVML of NVIDIA GPUs."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

_POWERCAP = Path("/sys/class/powercap")
_ZONE = re.compile(r"intel-rapl:\d+")  # whole zones: cores and memory inside them are counted along
_GPU_SECONDS = 1.0  # a GPU's counter moves every tenth of a second or so


@dataclass(frozen=True)
class EnergyCounter:
    """One device's energy, counted from some time on.

    Attributes:
        name: of the device.
        read: gives the count.
        per_joule: counts a joule.
        largest: the count behind which it starts again at 0; None: it never does.
    """

    name: str
    read: Callable[[], int]
    per_joule: float
    largest: int | None = None

    def joules(self, then: int, now: int) -> float:
        """Joules from one count to a later one. The counter must not have gone round more than once."""
        used = now - then if self.largest is None else (now - then) % (self.largest + 1)
        return used / self.per_joule


@dataclass(frozen=True)
class EnergyMeter:
    """The energy of all processor packages or of one GPU, whoever uses them.

    Attributes:
        counters: one a package, or the GPU's; none where energy is not counted.
        description: what is counted, or why nothing is.
        least_seconds: a shorter time than this tells little about the energy.
    """

    counters: tuple[EnergyCounter, ...]
    description: str
    least_seconds: float = 0.0

    def read(self) -> tuple[int, ...]:
        """The counters now, for ``joules_since``."""
        return tuple(counter.read() for counter in self.counters)

    def joules_since(self, before: Sequence[int]) -> float | None:
        """Joules used since ``before``; None without counters."""
        if not self.counters:
            return None
        readings = zip(self.counters, before, self.read(), strict=True)
        return sum(counter.joules(then, now) for counter, then, now in readings)


def find_energy_meter(device: torch.device, root: Path = _POWERCAP) -> EnergyMeter:
    """The energy counters of ``device``, if it has any that this user may read.

    Args:
        device: a GPU is never given the processor's energy.
        root: where Linux shows the processor's counters.
    """
    return _find_gpu_meter(device) if device.type == "cuda" else _find_processor_meter(root)


def _find_processor_meter(root: Path) -> EnergyMeter:
    zones = sorted(path for path in root.glob("intel-rapl:*") if _ZONE.fullmatch(path.name))
    counters: list[EnergyCounter] = []
    try:
        for zone in zones:
            name = (zone / "name").read_text(encoding="utf-8").strip()
            if name.startswith("package"):
                largest = _read_count(zone / "max_energy_range_uj")
                counters.append(EnergyCounter(name, partial(_read_count, zone / "energy_uj"), 1e6, largest))
                counters[-1].read()
    except PermissionError:
        return EnergyMeter((), "not measured: this machine's energy counters are for root to read")
    except (OSError, ValueError) as error:
        return EnergyMeter((), f"not measured: this machine's energy counters cannot be read ({error})")
    if not counters:
        return EnergyMeter((), "not measured: this machine reports no energy (no RAPL counters)")
    return EnergyMeter(tuple(counters), f"RAPL {', '.join(counter.name for counter in counters)}, processor only")


def _read_count(file: Path) -> int:
    return int(file.read_text(encoding="ascii"))


def _find_gpu_meter(device: torch.device) -> EnergyMeter:
    """NVML's counter of the GPU that torch computes on, found by its UUID: NVML numbers GPUs in an order of its own."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return EnergyMeter((), "not measured: the GPU's energy is read by NVML; type pip install nvidia-ml-py")
    properties = torch.cuda.get_device_properties(device)
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}")
        counter = EnergyCounter(properties.name, lambda: int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)), 1e3)
        counter.read()
    except nvml.NVMLError as error:
        return EnergyMeter((), f"not measured: NVML does not count this GPU's energy ({error})")
    return EnergyMeter(
        (counter,), f"NVML, the GPU only, repeats of at least {_GPU_SECONDS:g} s", least_seconds=_GPU_SECONDS
    )
