"""What one of several ranks could not do, and how rank 0 comes to know of it. Nothing here loads torch."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from llmprune.errors import LlmpruneError

_WHO = "on_rank"
_SENT = ("builtins", "torch")  # whose errors are the same in another process


class AnotherRankFailed(BaseException):
    """Another rank has failed in what all do together, so this one leaves it too. Only ``Ranks`` catches it."""


@dataclass(frozen=True)
class Failure:
    """What ended a rank's part of what all do together.

    Attributes:
        error: in a form that other processes can take.
    """

    error: Exception


def failure(error: Exception, who: str) -> Failure:
    """An error for the other ranks: of llmprune, of Python and of torch it is the same, else one with its words.

    Args:
        error: what was raised.
        who: this rank, as ``failed_on`` shall tell it.
    """
    where = "".join(traceback.format_exception(error))
    if not isinstance(error, LlmpruneError) and type(error).__module__ not in _SENT:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"{who}: {where}")  # for LLMPRUNE_DEBUG=1
    vars(error)[_WHO] = who
    return Failure(error)


def failed_on(error: BaseException) -> str:
    """Which other rank an error was raised on, as the beginning of a sentence; nothing: on this one."""
    return f"{vars(error)[_WHO]}: " if _WHO in vars(error) else ""
