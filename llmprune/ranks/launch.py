"""What the launcher says of this process. Nothing here loads torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from llmprune.errors import TargetError

_FIRST_PORT, _PORTS = 20000, 20000  # a port for each SLURM job, where none is set


@dataclass(frozen=True)
class Launch:
    """One of several processes.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        local_rank: its number on its machine: which GPU is its own.
        address: where rank 0 waits for the others.
        port: on which port.
    """

    rank: int
    size: int
    local_rank: int
    address: str
    port: int

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.size}"


def launched(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """How this process was launched, by torchrun or accelerate launch, or by srun; None: it is alone.

    Raises:
        TargetError: the launcher's variables are not numbers, or say nothing of where rank 0 is.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if not all(name in environment for name in names[:2]):
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")  # the latter are set by srun alone
    if not all(name in environment for name in names[:2]):
        return None
    rank, size, local = (_number(environment, name) for name in names)
    if size == 1:
        return None
    address = environment.get("MASTER_ADDR") or environment.get("SLURM_LAUNCH_NODE_IPADDR")
    if address is None:
        raise TargetError("The launcher does not say where rank 0 is; set MASTER_ADDR and MASTER_PORT.")
    if "MASTER_PORT" in environment:
        port = _number(environment, "MASTER_PORT")
    else:
        port = _FIRST_PORT + _number(environment, "SLURM_JOB_ID") % _PORTS
    return Launch(rank, size, local, address, port)


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "0")
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise TargetError(f"The launcher's {name} is '{text:.60}', which is not a number.")
    return int(text)
