"""One command in several processes of one thread each, started as torchrun starts them."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence
from typing import Any


def start_ranks(size: int, words: Sequence[object], **options: Any) -> list[subprocess.Popen[str]]:
    """Start a command line in so many processes, which find one another at a free port.

    Args:
        size: how many.
        words: the command line.
        options: of ``subprocess.Popen``.

    Returns:
        The processes, in the order of their ranks.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    usual = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    usual |= {"WORLD_SIZE": str(size), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [*map(str, words)],
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **usual, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            **options,
        )
        for rank in range(size)
    ]
