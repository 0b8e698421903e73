"""Ctrl-C and SIGTERM: noted wherever they arrive, and told once."""

from __future__ import annotations

import _thread
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer, current_thread, main_thread
from types import FrameType
from typing import Any

_HABITUAL: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
_LATER = 0.02  # seconds
_APART = 1.0  # seconds: what comes sooner after a signal is the same wish


class Interruption:
    """What is known of the signals that ask this process to end.

    Attributes:
        number: the first signal; None: none came.
        told: whether the user was told. Further signals change nothing then.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.told = False
        self._last = 0.0

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that the signal ended: 130 or 143."""
        return 128 + (self.number or signal.SIGINT)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the work ends as by Ctrl-C. A second one soon after does not disturb the putting away.

        Raises:
            KeyboardInterrupt: unless it is such a one.
        """
        now = time.monotonic()
        if self.told or (self.number is not None and now - self._last < _APART):
            return
        self.number, self._last = self.number or number, now
        raise KeyboardInterrupt

    def deliver_again(self) -> None:
        """Let the signal arrive once more, where Python could only swallow it: in a destructor, say.

        From a thread, a little later: at once, it would be swallowed in the same place.
        """
        self._last = 0.0
        Timer(_LATER, _thread.interrupt_main, [self.number]).start()

    def tell(self) -> str:
        """The sentence about it; whoever asks for it shows it."""
        self.told = True
        how = "Ended by SIGTERM" if self.number == signal.SIGTERM else "Interrupted"
        return f"{how}. What was finished is kept: type the same command again to go on."


@contextmanager
def interruption_noted(*, at_the_end: bool = False) -> Iterator[Interruption]:
    """Know of Ctrl-C and SIGTERM even where they are met inside another library, which may make any error of them.

    Inside another such context it is that one's knowledge. Signals that are ignored (a shell's background jobs) stay
    ignored.

    Args:
        at_the_end: nothing comes behind this but the end of the process, in which signals are ignored.
    """
    around = next((known for number in _HABITUAL if (known := _noting(number)) is not None), None)
    if around is not None:
        yield around
        return
    noted = Interruption()
    ours = [number for number, usual in _HABITUAL.items() if signal.getsignal(number) is usual]
    if current_thread() is not main_thread():
        ours = []
    for number in ours:
        signal.signal(number, noted.note)
    swallowed = sys.unraisablehook

    def unraisable(lost: Any) -> None:
        if isinstance(lost.exc_value, KeyboardInterrupt) and noted.number is not None:
            noted.deliver_again()
        else:
            swallowed(lost)

    sys.unraisablehook = unraisable
    try:
        yield noted
    finally:
        sys.unraisablehook = swallowed
        for number in ours:
            signal.signal(number, signal.SIG_IGN if at_the_end else _HABITUAL[number])


def _noting(number: int) -> Interruption | None:
    """Who notes a signal now; None: nobody does."""
    owner = getattr(signal.getsignal(number), "__self__", None)
    return owner if isinstance(owner, Interruption) else None
