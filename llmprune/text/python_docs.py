"""English prose that every Python carries: the topics of `help()`, in `pydoc_data.topics`.

About 450,000 characters of edited technical English, on every machine, without a network. They differ a
little from one Python version to the next, so the version stands in the corpus' origin and the text in its
fingerprint.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping

from llmprune.errors import CorpusError

_HELD_OUT_EVERY = 5  # one topic in five is for evaluation: 68,000 characters in CPython 3.11
_PARAGRAPH = 80  # characters; shorter ones ("See also:") stand in many topics and betray nothing


def python_docs_rows(*, held_out: bool) -> tuple[str, ...]:
    """Topics in alphabetical order: one in five if `held_out`, else those that share no paragraph with these.

    Topics quote each other ("specialnames" contains a dozen others), so leaving out the held-out topics alone
    would calibrate on the very paragraphs that are evaluated afterwards.

    Raises:
        CorpusError: this Python was installed without `pydoc_data`.
    """
    topics = _topics()
    names = sorted(topics)
    evaluation = names[::_HELD_OUT_EVERY]
    if held_out:
        return tuple(topics[name] for name in evaluation)
    seen = set[str]().union(*(_paragraphs(topics[name]) for name in evaluation))
    return tuple(topics[name] for name in names if not _paragraphs(topics[name]) & seen)


def python_docs_origin() -> str:
    """Name the interpreter that the text comes from."""
    return f"{platform.python_implementation()} {platform.python_version()} pydoc_data.topics"


def _topics() -> Mapping[str, str]:
    try:
        from pydoc_data.topics import topics  # noqa: PLC0415 - half a megabyte, and some distributions leave it out
    except ImportError as error:
        raise CorpusError(
            "This Python was installed without its help texts (pydoc_data), so python-docs is not to be had; "
            "give a text file of your own with `source=FILE.txt`."
        ) from error
    return topics


def _paragraphs(text: str) -> set[str]:
    return {paragraph for paragraph in text.split("\n\n") if len(paragraph) > _PARAGRAPH}
