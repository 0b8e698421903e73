"""Whether all ranks see one folder: what rank 0 writes must be there for the others."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

from llmprune.errors import SharedFolderError, TargetError
from llmprune.ranks.group import Ranks


class _Witness:
    def sees(self, path: Path, token: str) -> tuple[str, bool]:
        """The name of this machine, and whether it finds the token."""
        try:
            return socket.gethostname(), path.read_text(encoding="utf-8") == token
        except OSError:
            return socket.gethostname(), False


def require_divisible(ranks: Ranks, windows: int) -> None:
    """See that every rank has a window.

    Raises:
        TargetError: more ranks than windows.
    """
    if ranks.size > windows:
        raise TargetError(
            f"{ranks.size} processes were started, and there are {windows} windows to divide among them; start fewer, "
            "or calibrate with more `samples`."
        )


def require_shared(ranks: Ranks, folder: Path) -> None:
    """See that every rank sees what rank 0 writes into a folder that is there.

    Raises:
        SharedFolderError: one does not.
    """
    if ranks.size == 1:
        return
    token = secrets.token_hex(16)
    path = folder.absolute() / f".shared-{token}"
    path.write_text(token, encoding="utf-8")
    try:
        with ranks.place(_Witness) as witnesses:
            found = witnesses.call("sees", path, token)
    finally:
        path.unlink()
    for rank, (host, sees) in enumerate(found):
        if not sees:
            raise SharedFolderError(
                f"Rank {rank} on {host} does not see {folder.absolute()}; several processes need one shared file "
                "system: type `run=FOLDER` and name a model there."
            )
