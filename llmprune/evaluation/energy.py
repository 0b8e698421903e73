"""Energy, where the platform counts it: Linux's powercap files (RAPL of Intel and AMD processors)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_POWERCAP = Path("/sys/class/powercap")
_ZONE = re.compile(r"intel-rapl:\d+")  # whole zones: cores and memory inside them are counted along


@dataclass(frozen=True)
class _Counter:
    """One package's energy in microjoules, which starts again at 0 behind ``largest``."""

    name: str
    file: Path
    largest: int

    def read(self) -> int:
        return int(self.file.read_text(encoding="ascii"))


@dataclass(frozen=True)
class EnergyMeter:
    """The energy of all processor packages, whoever uses them.

    Attributes:
        counters: one a package; none where energy cannot be had.
        description: what is counted, or why nothing is.
    """

    counters: tuple[_Counter, ...]
    description: str

    def read(self) -> tuple[int, ...]:
        """The counters now, for ``joules_since``."""
        return tuple(counter.read() for counter in self.counters)

    def joules_since(self, before: Sequence[int]) -> float | None:
        """Joules used since ``before``; None without counters. They must not have gone round more than once."""
        if not self.counters:
            return None
        used = [
            (now - then) % (counter.largest + 1)
            for counter, now, then in zip(self.counters, self.read(), before, strict=True)
        ]
        return sum(used) / 1e6


def find_energy_meter(root: Path = _POWERCAP) -> EnergyMeter:
    """The machine's energy counters under ``root``, if there are any that this user may read."""
    zones = sorted(path for path in root.glob("intel-rapl:*") if _ZONE.fullmatch(path.name))
    counters: list[_Counter] = []
    try:
        for zone in zones:
            name = (zone / "name").read_text(encoding="utf-8").strip()
            if name.startswith("package"):
                largest = int((zone / "max_energy_range_uj").read_text(encoding="ascii"))
                counters.append(_Counter(name, zone / "energy_uj", largest))
                counters[-1].read()
    except PermissionError:
        return EnergyMeter((), "not measured: this machine's energy counters are for root to read")
    except (OSError, ValueError) as error:
        return EnergyMeter((), f"not measured: this machine's energy counters cannot be read ({error})")
    if not counters:
        return EnergyMeter((), "not measured: this machine reports no energy (no RAPL counters)")
    return EnergyMeter(tuple(counters), f"RAPL {', '.join(counter.name for counter in counters)}, processor only")
