"""What a command is expected to take before it begins: memory, disk, bytes read and written, time.

Every stage has a file ``cost`` that makes these from the shapes of a model, the settings, and one measured block. The
remarks that are printed before long work come from there, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from llmprune.artifacts.files.sizes import format_size

if TYPE_CHECKING:
    from llmprune.stages.common.model_cost import ModelCost


@dataclass(frozen=True)
class Estimate:
    """What one step of a command is expected to take. Of several processes memory, reading and time are each one's.

    Attributes:
        step: its name, for people.
        host: bytes of memory of the machine at most, beyond what Python and its libraries take.
        device: bytes of memory of the accelerator at most; 0 where the processor computes.
        disk: bytes on the disk at most that were not there before the step.
        kept: those of them that stay behind the step.
        read: bytes read from files, also where the system has them in memory already.
        written: bytes written to files.
        seconds: wall time; None: it is not known beforehand.
    """

    step: str
    host: int = 0
    device: int = 0
    disk: int = 0
    kept: int = 0
    read: int = 0
    written: int = 0
    seconds: float | None = 0.0


@dataclass(frozen=True)
class Plan:
    """What a command is expected to take.

    Attributes:
        command: its name.
        device: where it computes.
        dtype: what it computes in.
        base: bytes of memory of the machine that Python and its libraries take.
        start: seconds until the first step began, measured in this process.
        steps: in the order in which they run.
        remarks: what the estimate does not know, or leaves out.
        processes: that divide the work.
    """

    command: str
    device: str
    dtype: str
    base: int
    start: float
    steps: tuple[Estimate, ...]
    remarks: tuple[str, ...] = ()
    processes: int = 1

    @property
    def total(self) -> Estimate:
        """All steps as one, with what Python and its libraries take."""
        total = together("total", self.steps)
        seconds = None if total.seconds is None else self.start + total.seconds
        return replace(total, host=total.host + self.base, seconds=seconds)

    def as_json(self) -> dict[str, Any]:
        """For ``--json``: the steps' memory without the base, the total's with it."""
        total = asdict(self.total)
        del total["step"]
        return {**asdict(self), "total": total}


def plan_of(command: str, cost: ModelCost, steps: Iterable[Estimate], remarks: Iterable[str] = ()) -> Plan:
    """The plan of a command on a model whose cost is known."""
    plan = Plan(command, cost.device, cost.dtype, cost.base, cost.start, tuple(steps), tuple(remarks), cost.processes)
    return replace(plan, remarks=(*plan.remarks, *_beyond_budget(plan.total, cost)))


def _beyond_budget(total: Estimate, cost: ModelCost) -> Iterator[str]:
    """What is said where a command takes more memory than the budget."""
    device, host = cost.budget.device, cost.budget.host
    budgets = {"": (total.host, device if cost.on_host else host), " of the device": (total.device, device)}
    for where, (needed, budget) in budgets.items():
        if budget is not None and needed > budget:
            yield f"{format_size(needed)} of memory{where} are expected, and the budget is {format_size(budget)}"


def together(step: str, estimates: Iterable[Estimate]) -> Estimate:
    """Steps that run one after another as one: the most memory of any, the most disk at any time, sums of all else."""
    total = Estimate(step)
    for one in estimates:
        known = total.seconds is not None and one.seconds is not None
        total = Estimate(
            step,
            host=max(total.host, one.host),
            device=max(total.device, one.device),
            disk=max(total.disk, total.kept + one.disk),
            kept=total.kept + one.kept,
            read=total.read + one.read,
            written=total.written + one.written,
            seconds=(total.seconds or 0.0) + (one.seconds or 0.0) if known else None,
        )
    return total


def spell_seconds(seconds: float) -> str:
    """``40 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
