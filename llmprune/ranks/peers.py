"""Which of several processes are still there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

_SETTLING = 5.0  # seconds in which the operating system takes note of a death

Peer = tuple[str, int]  # host and process number


def who_is_gone(peers: Sequence[Peer], own: int) -> tuple[str, bool]:
    """What to say of a lost connection, and whether it is this rank that says it: the first living one of its machine.

    Args:
        peers: of every rank.
        own: this rank's number.
    """
    host, _ = peers[own]
    deadline = time.monotonic() + _SETTLING
    while not (dead := _here(peers, host, living=False)) and time.monotonic() < deadline:
        time.sleep(0.05)
    if dead:
        who = f"{' and '.join(f'rank {rank} (process {peers[rank][1]})' for rank in dead)} of {len(peers)} died"
        who = who[0].upper() + who[1:]
    else:
        who = f"One of {len(peers)} ranks died on another machine than {host}, or the network to it"
    message = f"{who}. What was finished is kept: start the same command again, with any number of processes."
    return message, _here(peers, host, living=True)[0] == own


def _here(peers: Sequence[Peer], host: str, *, living: bool) -> list[int]:
    """The ranks of a machine, this one, that are living, or dead."""
    return [rank for rank, (place, pid) in enumerate(peers) if place == host and _lives(pid) == living]


def _lives(pid: int) -> bool:
    """Whether a process of this machine is there, and not only waits to be buried."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
