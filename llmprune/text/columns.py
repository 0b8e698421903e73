"""Which column of a table is its text, and how much of it is taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from llmprune.errors import CorpusError
from llmprune.spelling import listed
from llmprune.text.conversations import is_conversation


class Holds(StrEnum):
    """What a column holds."""

    STRINGS = "strings"
    CONVERSATIONS = "conversations"
    OTHER = "other"


def what_is(value: object) -> Holds:
    """What a column with this value holds."""
    if isinstance(value, str):
        return Holds.STRINGS
    return Holds.CONVERSATIONS if is_conversation(value) else Holds.OTHER


def choose_column(columns: Mapping[str, Holds], wanted: str | None, *, where: str) -> str:
    """Choose the column to read: ``wanted``, else ``text``, else conversations in ``messages``, else the only strings.

    Args:
        columns: name -> what it holds.
        wanted: what was asked for, if anything.
        where: names the table in errors.

    Raises:
        CorpusError: no such column, or no way to tell which is meant. The message names the columns.
    """
    strings = [name for name, holds in columns.items() if holds is Holds.STRINGS]
    chats = [name for name, holds in columns.items() if holds is Holds.CONVERSATIONS]
    if wanted is not None and wanted not in (*strings, *chats):
        problem = "does not hold strings" if wanted in columns else "does not exist"
        raise CorpusError(f"Column '{wanted:.60}' of {where} {problem}; {list_columns(columns)}.")
    if wanted is not None:
        return wanted
    if "text" in strings:
        return "text"
    if "messages" in chats:
        return "messages"
    if len(strings) == 1:
        return strings[0]
    if not strings:
        raise CorpusError(f"{where} has no column of strings; {list_columns(columns)}. Give another `source`.")
    raise CorpusError(
        f"{where} has no column 'text' and {len(strings)} columns of strings; {list_columns(columns)}. "
        "Name the one to read after a colon: FILE:COLUMN, or owner/name:config:split:COLUMN."
    )


def take(
    rows: Iterable[str], *, max_rows: int | None = None, max_chars: int | None = None
) -> tuple[tuple[str, ...], bool]:
    """Take rows from the front until there are ``max_rows`` of them or ``max_chars`` characters.

    Returns:
        The rows, and whether there were more.
    """
    kept: list[str] = []
    chars = 0
    for row in rows:
        if len(kept) == max_rows or (max_chars is not None and chars >= max_chars):
            return tuple(kept), True
        kept.append(row)
        chars += len(row)
    return tuple(kept), False


def list_columns(columns: Mapping[str, Holds]) -> str:
    """Name columns in an error, the first dozen of them; see `choose_column`."""
    holding = {Holds.STRINGS: "", Holds.CONVERSATIONS: " (conversations)", Holds.OTHER: " (no strings)"}
    shown = [f"{_shown(name)}{holding[holds]}" for name, holds in columns.items()]
    return f"its columns are {listed(shown, 12)}" if shown else "it has no columns"


def _shown(name: str) -> str:
    """On one line, not too long, and without half a surrogate pair, which no terminal takes."""
    return f"{' '.join(name.split()):.60}".encode(errors="replace").decode()
