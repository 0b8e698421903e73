"""How messages name several things, and arguments; how the command line and its report page say the same of these.

A message names a Python argument in backticks: `` `seq_len` ``, or with a value `` `seq_len=512` ``. At the command
line that is ``--seq-len``, and ``--seq-len 512``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from llmprune.escaping import for_shell

_ARGUMENT = re.compile(r"`([a-z][a-z_]*)(?:=([^`]*))?`")
# Arguments that no option of the same name stands for.
_SWITCHES = {
    "ppl=None": "--no-ppl",
    "speed=False": "--no-speed",
    "verify=False": "--no-verify",
    "check=False": "--no-check",
    "keep=False": "--discard-checkpoints",
}


def as_options(text: str) -> str:
    """A message with options in place of arguments."""
    return _ARGUMENT.sub(_option, text)


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many others there are: ``a, b, c and 2 more``."""
    others = len(names) - most
    return ", ".join(names[:most]) + (f" and {others} more" if others > 0 else "")


def _option(found: re.Match[str]) -> str:
    name, value = found[1], found[2]
    switch = _SWITCHES.get(f"{name}={value}")
    if switch is not None:
        return switch
    option = f"--{name.replace('_', '-')}"
    if value in (None, "True"):
        return option
    quoted = value[:1] in {"'", '"'}  # by whoever wrote the message
    return f"{option} {value if quoted else for_shell(value)}"
