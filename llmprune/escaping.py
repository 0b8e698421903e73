"""Text of others on its way to a reader: one function for each medium, so that it stays text there.

Names of models, shards, columns and keys come from files, and may hold anything. The page escapes by itself: its
template engine does (``report.page``).
"""

from __future__ import annotations

import re
import shlex
import unicodedata

# Control characters, invisible ones that turn the direction of a text, halves of surrogate pairs, and ends of lines.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~#])")


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8. Python reads other bytes of file names as halves of surrogate pairs."""
    return not any(unicodedata.category(char) == "Cs" for char in text)


def for_terminal(text: str) -> str:
    r"""A text on one line, in which nothing commands a terminal: ``\x1b`` is spelled out."""
    return text if text.isprintable() else "".join(map(_spelled, text))


def for_markdown(text: str) -> str:
    """A text within a line of Markdown, or a cell of a table, in which nothing is HTML, a link or a mark."""
    return _MARKDOWN.sub(r"\\\1", for_terminal(" ".join(text.split())))


def as_markdown_code(text: str) -> str:
    """A text as code within a line of Markdown: between more backticks than stand in it."""
    text = for_terminal(" ".join(text.split()))
    longest = max(map(len, re.findall("`+", text)), default=0)
    marks, space = "`" * (longest + 1), " " * bool(longest)
    return f"{marks}{space}{text}{space}{marks}"


def for_yaml(text: str) -> str:
    """A text as a value of metadata, on one line: YAML folds some ends of lines. Quoting is the YAML library's."""
    return for_terminal(" ".join(text.split()))


def for_shell(word: str) -> str:
    """A word of a command line as a shell reads it, on one line; bytes that are no text as bash and zsh spell them."""
    if word.isprintable():
        return shlex.quote(word)
    return f"$'{''.join(map(_spelled_for_shell, word))}'"


def _spelled(char: str) -> str:
    if unicodedata.category(char) not in _INVISIBLE:
        return char
    return char.encode("unicode_escape").decode("ascii")


def _spelled_for_shell(char: str) -> str:
    if char in "'\\":
        return f"\\{char}"
    if unicodedata.category(char) not in _INVISIBLE:
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
