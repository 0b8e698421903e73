"""How conversations become text.

The text is what the tokenizer's own chat template writes. A template that asks for today's date gets a fixed one, so
that the same command draws the same windows on every day.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Any, Self

from transformers.utils import chat_template_utils

from llmprune.choices import ChatTemplate, TextKind
from llmprune.errors import CorpusError
from llmprune.quiet import failures_as, first_sentence
from llmprune.text.conversations import Conversation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OFF = "chat_template=off"


@dataclass(frozen=True)
class ChatWriter:
    """Writes conversations as text.

    Attributes:
        tokenizer: whose template writes.
        template: ``auto``: the template; ``off``: the contents alone, joined by blank lines.
    """

    tokenizer: PreTrainedTokenizerBase
    template: ChatTemplate = ChatTemplate.AUTO

    @property
    def kind(self) -> TextKind:
        """What the text is."""
        return TextKind.CHAT if self.template == ChatTemplate.AUTO else TextKind.TEXT

    @property
    def separator(self) -> str:
        """What joins one conversation and the next: nothing where the template marks their ends."""
        return "" if self.template == ChatTemplate.AUTO else "\n\n"

    def write(self, conversation: Conversation, *, where: str) -> str:
        """The text of a conversation.

        Args:
            conversation: its messages.
            where: names it in errors.

        Raises:
            CorpusError: the tokenizer has no template, the template refuses the conversation, or a content is no text.
        """
        if self.template == ChatTemplate.OFF:
            return "\n\n".join(_text(message["content"], where) for message in conversation)
        if not self.tokenizer.chat_template:
            raise CorpusError(
                f"{where} is a conversation, and the tokenizer of this model has no chat template; type `{_OFF}` to "
                "take the contents of the messages as plain text."
            )

        def refused(error: BaseException) -> CorpusError:  # a template is a program, and may raise anything
            return CorpusError(
                f"The chat template of this model does not take {where} ({first_sentence(error):.200}); mend the "
                f"record, or type `{_OFF}` to take the contents of the messages as plain text."
            )

        with failures_as(refused), _fixed_date():
            written = self.tokenizer.apply_chat_template(conversation, tokenize=False)
        assert isinstance(written, str), "one conversation was given, and no tokens were asked for"
        return written


def _text(content: object, where: str) -> str:
    """A content is a text, a list of parts of which some are texts, or nothing (a call of a tool)."""
    if isinstance(content, list):
        content = "\n\n".join(str(part["text"]) for part in content if isinstance(part, dict) and "text" in part)
    if not isinstance(content, str | None):
        raise CorpusError(f"{where} has a message whose content is a {type(content).__name__}; a text was expected.")
    return content or ""


class _FixedDate(datetime):
    """The date that Llama's templates write where they know no other."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls(2024, 7, 26, tzinfo=tz)


@contextmanager
def _fixed_date() -> Iterator[None]:
    # Templates reach the date through this module alone, and transformers lets nobody hand in a function.
    module: Any = chat_template_utils
    real = module.datetime
    module.datetime = _FixedDate
    try:
        yield
    finally:
        module.datetime = real
