"""Paths as they are typed: what no file can be called, or no file of weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from llmprune.errors import UserError
from llmprune.escaping import is_unicode


def require_unicode(typed: Iterable[object]) -> None:
    """See that every path and name that was typed is Unicode, a path with the folder that it is looked for in.

    Linux allows file names of any bytes; Python reads those that are no UTF-8 as lone surrogates.

    Raises:
        UserError: one is not, or the working directory was removed.
    """
    for value in typed:
        for one in value if isinstance(value, list | tuple) else [value]:
            text = _whole(one) if isinstance(one, Path) else one
            if isinstance(text, str) and not is_unicode(text):
                raise UserError(
                    f"The path '{text:.200}' is not valid UTF-8, and files of weights need such names; rename it, or "
                    "type another one."
                )


def _whole(path: Path) -> str:
    try:
        return str(path.absolute())
    except FileNotFoundError as error:
        raise UserError("The working directory is not there any more; go to another one.") from error
