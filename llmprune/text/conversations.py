"""Conversations in rows: lists of messages, each with a role and a content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from llmprune.errors import CorpusError

if TYPE_CHECKING:
    from llmprune.text.chat_writer import ChatWriter

Conversation: TypeAlias = list[dict[str, Any]]
Row: TypeAlias = str | Conversation
MESSAGE = ("role", "content")


def is_conversation(value: object) -> TypeGuard[Conversation]:
    """Whether a value is a list of messages, at least one."""
    return isinstance(value, list) and bool(value) and all(_is_message(message) for message in value)


def written(rows: Iterable[Row], chat: ChatWriter | None, *, where: str) -> Iterator[str]:
    """Rows as texts.

    Args:
        rows: strings or conversations.
        chat: writes conversations; None: nothing does.
        where: names the rows in errors.

    Raises:
        CorpusError: a conversation, and nothing writes it, or it cannot be written.
    """
    for number, row in enumerate(rows, start=1):
        if isinstance(row, str):
            yield row
        elif chat is None:
            raise CorpusError(
                f"{where} holds conversations, which only calibration takes, by the model's chat template; name a "
                "column of strings, or give another text."
            )
        else:
            yield encodable(chat.write(row, where=f"conversation {number} of {where}"))


def encodable(text: str) -> str:
    """The text less what is no character: JSON can spell half of a surrogate pair, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and "content" in value
