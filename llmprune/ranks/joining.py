"""A process joins the others, and leads or serves until the command ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from llmprune.errors import JoinError
from llmprune.ranks.group import Ranks, join_as
from llmprune.ranks.launch import Launch

_ARRIVAL = timedelta(minutes=10)  # for all to come
_PATIENCE = timedelta(days=7)  # others may wait for hours while rank 0 writes


@contextmanager
def leading(launch: Launch) -> Iterator[None]:
    """Be rank 0 while the context lasts, and let the others end with it.

    Raises:
        JoinError: the others are not to be found.
    """
    ranks = _join(launch)
    code = 1
    try:
        yield
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    finally:
        ranks.leave(code)


def serve(launch: Launch) -> int:
    """Be another rank than 0: do what it asks for until it ends; returns its exit code.

    What fails here is told by rank 0, which may go on.

    Raises:
        JoinError: the others are not to be found.
        LostRankError: rank 0, or another rank, is gone.
    """
    ranks = _join(launch)
    objects: dict[int, Any] = {}
    while True:
        request = ranks.heard()
        if request[0] == "end":
            dist.destroy_process_group()
            return int(request[1])
        ranks.outcomes(partial(_done, request, objects))


def _done(request: tuple[Any, ...], objects: dict[int, Any]) -> Any:
    """What a request gives here."""
    match request:
        case ("make", number, make, args):
            objects[number] = make(*args)
        case ("call", number, method, args):
            return getattr(objects[number], method)(*args)
        case ("drop", number):
            del objects[number]
    return None


def _join(launch: Launch) -> Ranks:
    """Meet the others."""
    place = f"{launch.address}:{launch.port}"
    try:
        by = "env://" if "TORCHELASTIC_RUN_ID" in os.environ else f"tcp://{place}"
        store, *_ = next(rendezvous(by, launch.rank, launch.size, timeout=_ARRIVAL))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=store,
            rank=launch.rank,
            world_size=launch.size,
            timeout=_PATIENCE,
        )
    except (RuntimeError, ValueError) as error:  # some of torch's have no class of their own
        reason = str(error).strip().partition("\n")[0]
        raise JoinError(
            f"Rank {launch.rank} of {launch.size} does not find the others at {place} ({reason:.300}); see that this "
            "address can be reached, and that its port is free: set MASTER_ADDR and MASTER_PORT."
        ) from error
    ranks = Ranks(launch.rank, launch.size, launch.local_rank)
    ranks.meet(socket.gethostname(), os.getpid())
    join_as(ranks)
    return ranks
