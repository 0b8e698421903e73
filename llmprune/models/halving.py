"""What does not fit on a device in one batch runs in halves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Say = Callable[[str], None]


class Halving:
    """Runs a batch of windows whole, or in parts once memory did not suffice; later batches in such parts at once.

    Attributes:
        most: windows that run together at most; None: as many as are given.
        say: told in words when memory does not suffice for the first time.
    """

    def __init__(self) -> None:
        self.most: int | None = None
        self.say: Say = lambda _: None

    @property
    def remarks(self) -> tuple[str, ...]:
        """What artifacts say of it."""
        if self.most is None:
            return ()
        return (f"Memory did not suffice for the usual batch: {self.most} windows at a time went through a block",)

    def run(self, hidden: Tensor, whole: Callable[[slice], Tensor], *, divisible: bool) -> Tensor:
        """What ``whole`` gives for all windows, made of parts where there is no memory for all at once.

        Args:
            hidden: (windows, ...), what is run.
            whole: runs some of the windows.
            divisible: whether they may run in parts.

        Raises:
            torch.OutOfMemoryError: there is no memory for a single window, or parts are not allowed.
        """
        while True:
            windows = len(hidden)
            step = min(windows, self.most or windows) if divisible else windows
            try:
                parts = [whole(slice(start, start + step)) for start in range(0, windows, step)]
                return parts[0] if len(parts) == 1 else torch.cat(parts)
            except torch.OutOfMemoryError:
                if step == 1 or not divisible:
                    raise
            self._halve(step, hidden.device)

    def _halve(self, windows: int, device: torch.device) -> None:
        if self.most is None:
            self.say(
                f"{device} has no memory for {windows} windows at a time: from here on half of them go through a block "
                "together, or fewer. That changes the order of sums, and nothing else."
            )
        self.most = windows // 2
        if device.type != "cpu":
            torch.accelerator.empty_cache()
