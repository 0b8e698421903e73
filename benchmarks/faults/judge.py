"""How a command should end that cannot do its work."""

from __future__ import annotations

import re
import signal

from benchmarks.faults.process import Ended

_UNSETTLED = re.compile(r"/\S*/faults-\w+/work/|\.tmp\w{6}|\d{4,}-\d+|[0-9a-f]{8,}")


def improper_end(ended: Ended, codes: tuple[int, ...] = (1, 2)) -> str | None:
    """What is wrong with how a command failed; None: it has an exit code of these, and one sentence."""
    if ended.code == -signal.SIGALRM:
        return "hangs"
    if ended.code not in codes:
        return f"ends with {ended.code}: {last_line(ended)}"
    for word in ("Traceback", "Unexpected", "LLMPRUNE_DEBUG"):
        if word in ended.stderr:
            return f"says {word!r}: {last_line(ended)}"
    # Of what is wrong in the words alone, Typer draws a box.
    number = sum(line.startswith(("Error:", "╭─ Error ")) for line in ended.stderr.splitlines())
    return None if number == 1 else f"says {number} errors: {last_line(ended)}"


def last_line(ended: Ended) -> str:
    """The last line of what a command said, without what differs from run to run."""
    lines = [line for line in ended.stderr.splitlines() if line.strip()] or [""]
    return settled(lines[-1])[:300]


def settled(text: str) -> str:
    """A text without the parts of names that differ from run to run."""
    return _UNSETTLED.sub("*", text)
