"""What is chosen by name."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from llmprune.errors import TargetError

Choice = TypeVar("Choice", bound=StrEnum)


def choice(kind: type[Choice], **argument: str) -> Choice:
    """The member of ``kind`` that an argument, given by its name, stands for.

    Raises:
        TargetError: none.
    """
    ((name, value),) = argument.items()
    try:
        return kind(value)
    except ValueError:
        raise TargetError(f"`{name}={value}` is none of {', '.join(kind)}.") from None
