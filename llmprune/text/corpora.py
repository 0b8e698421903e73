"""Text sources by name: what a user types after `--source` or `--ppl`, turned into rows of text.

| spec | rows | joined by |
|---|---|---|
| `wikitext2` | WikiText-2 raw: train to calibrate, test to evaluate (blank lines are rows too) | blank line |
| `c4` | C4 English: the first 5,000 documents of train; of validation 1,100, cut to 256 windows | space |
| `ptb` | Penn Treebank sentences: train, test | space |
| `wikitext2:FILE`, `c4:FILE`, `ptb:FILE` | the same, from a local copy of the split's file | as above |
| `owner/name[:config[:split[:column]]]` | any Hub data set | blank line |
| `FILE.txt`, `.raw`, `.md` | one row: the file as it is | - |
| `FILE.jsonl[:column]`, `.json`, `.json.gz`, `.parquet` | a row each | blank line |
| the same, and Hub data sets, with a column of conversations (`messages`) | a conversation each | nothing |
| `python-docs` | the help texts of this Python; four topics in five calibrate, one evaluates | blank line |
| `auto` | wikitext2 where the Hub or its cache has it, else python-docs with a note | |

`wikitext2:wiki.test.raw` and `wiki.test.raw` are different texts: the first is the published protocol (rows
joined by a blank line, 304,986 tokens for SmolLM2), the second the bare file.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, get_args

from llmprune.choices import TextKind
from llmprune.errors import CorpusError, HubUnreachableError, TargetError
from llmprune.text.columns import Holds, take
from llmprune.text.conversations import written
from llmprune.text.local_text import find_file, iter_rows, read_text, row_column, text_lines
from llmprune.text.protocols import PARQUET_BRANCH, PROTOCOLS, Purpose, Split
from llmprune.text.python_docs import python_docs_origin, python_docs_rows

if TYPE_CHECKING:
    from llmprune.text.chat_writer import ChatWriter
    from llmprune.text.hub_text import HubText

_PARAGRAPHS = "\n\n"
_HUB_SPEC = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?::(?P<parts>.*))?", re.ASCII)


@dataclass(frozen=True)
class Corpus:
    """Rows of text from one source.

    Attributes:
        name: the spec in full, as it can be typed again.
        rows: the texts, in the source's order.
        separator: joins the rows into one text, for windows and for perplexity.
        origin: where the rows really come from, with the revision or the version.
        note: something that the user must be told, or None.
        max_windows: perplexity windows that a published protocol takes of it, or None for all.
        short_name: the name less the folders of a local file, or None where there are none.
        kind: prose, or conversations as a chat template writes them. Their rows are tokenised one by one.
    """

    name: str
    rows: tuple[str, ...]
    separator: str
    origin: str
    note: str | None = None
    max_windows: int | None = None
    short_name: str | None = None
    kind: TextKind = TextKind.TEXT

    @property
    def label(self) -> str:
        """What artifacts and remarks call it: never a path on somebody's machine."""
        return self.short_name or self.name

    @cached_property
    def text(self) -> str:
        """All rows, joined by the separator."""
        return self.separator.join(self.rows)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal: separator and rows, each after its length in bytes (8, little-endian)."""
        digest = hashlib.sha256()
        for part in (self.separator, *self.rows):
            encoded = part.encode()
            digest.update(len(encoded).to_bytes(8, "little"))
            digest.update(encoded)
        return digest.hexdigest()


_NAMES = (*PROTOCOLS, "python-docs", "auto", "self")


def load_corpus(spec: str, *, purpose: Purpose = "calibration", chat: ChatWriter | None = None) -> Corpus:
    """Load the rows that `spec` names (the table above).

    Args:
        spec: the source as the user typed it.
        purpose: which split a source with splits gives, where the spec does not say.
        chat: writes conversations as text; None: they are refused.

    Raises:
        CorpusError: no such file, name, data set, config, split or column; unreadable, empty or broken text;
            gated; or `self`, which needs a model (see self_text.py).
        HubUnreachableError (a CorpusError): not in the Hub's cache, and the Hub does not answer.
        TargetError: no such purpose.
    """
    if purpose not in get_args(Purpose):
        raise TargetError(f"purpose is '{purpose}'; expected one of {', '.join(get_args(Purpose))}.")
    spec = spec.strip()
    corpus = _load_named(spec, purpose) or _load_file(spec, chat) or _load_hub(spec, purpose, chat)
    if corpus is None:
        raise _unknown(spec, purpose)
    if not any(row and not row.isspace() for row in corpus.rows):
        raise CorpusError(f"{corpus.name} holds no text ({corpus.origin}); give another source with `source`.")
    return corpus


def _load_named(spec: str, purpose: Purpose) -> Corpus | None:
    match spec.partition(":"):
        case ("auto", "", ""):
            return _auto(purpose)
        case ("python-docs", "", ""):
            return _python_docs(purpose)
        case ("self", "", ""):
            raise CorpusError(
                "The source 'self' is text that the model itself writes: it needs a model, and serves "
                "calibration alone. Type `source=auto`, or a file."
            )
        case (name, "", "") if name in PROTOCOLS:
            return _published(name, purpose)
        case (name, ":", path) if name in PROTOCOLS and path:
            return _local_copy(name, path, purpose)
    return None


def _auto(purpose: Purpose) -> Corpus:
    try:
        return _published("wikitext2", purpose)
    except HubUnreachableError as error:
        reason = f"wikitext2 is not in the Hub's cache here, and {error.reason}"
    except CorpusError as error:  # a mirror without it, say: the default source works all the same
        reason = str(error).rstrip(".")
    return replace(_python_docs(purpose), note=f"The help texts of this Python stand in for WikiText-2: {reason}.")


def _python_docs(purpose: Purpose) -> Corpus:
    rows = python_docs_rows(held_out=purpose == "evaluation")
    return Corpus("python-docs", rows, _PARAGRAPHS, f"{python_docs_origin()}, {len(rows)} topics for {purpose}")


def _published(name: str, purpose: Purpose) -> Corpus:
    from llmprune.text.hub_text import read_hub_dataset, read_hub_file  # noqa: PLC0415 - 0.6 s of `datasets`, which no local text needs

    protocol = PROTOCOLS[name]
    split = protocol.splits[purpose]
    if split.file == PARQUET_BRANCH:
        found = read_hub_dataset(
            protocol.repo,
            config=protocol.config,
            splits=[split.label],
            column=protocol.column,
            max_chars=None,
        )
    else:
        found = read_hub_file(protocol.repo, split.file, column=protocol.column, max_rows=split.num_rows)
    note = _shortfall(name, split, found.rows)
    return Corpus(name, found.rows, protocol.separator, found.origin, note, split.max_windows)


def _local_copy(name: str, path: str, purpose: Purpose) -> Corpus:
    protocol, file = PROTOCOLS[name], find_file(path)
    if file is None:
        count = f" For {path} windows of {name}, type `source={name}` and `samples={path}`." if path.isdigit() else ""
        raise CorpusError(
            f"There is no file '{path}'; expected {name}:FILE, a local copy of the data set's file.{count}"
        )
    split = protocol.splits[purpose]
    if file.kind != "text":
        column, holds = row_column(file.path, file.kind, file.column or protocol.column)
        found = iter_rows(file.path, file.kind, column, holds)
        rows, _ = take(written(found, None, where=file.path.name), max_rows=split.num_rows)
    elif protocol.row_of_line is not None:
        rows = tuple(protocol.row_of_line(line) for line in text_lines(read_text(file.path)))
    else:
        raise CorpusError(
            f"'{file.path.name}' is a plain text, and {name} is made of documents: give .jsonl or .parquet."
        )
    origin = f"file {file.path.name} as {name} {split.label}"
    note = _shortfall(name, split, rows)
    short = f"{name}:{file.short}"
    return Corpus(f"{name}:{file}", rows, protocol.separator, origin, note, split.max_windows, short)


def _shortfall(name: str, split: Split, rows: tuple[str, ...]) -> str | None:
    if len(rows) == split.num_rows:
        return None
    return f"{len(rows):,} rows were read, where {name} takes {split.num_rows:,} of its {split.label} split."


def _load_file(spec: str, chat: ChatWriter | None) -> Corpus | None:
    file = find_file(spec) if spec else None
    if file is None:
        return None
    name, origin = str(file), f"file {file.path.name}"
    if file.kind == "text":
        return Corpus(name, (read_text(file.path),), _PARAGRAPHS, origin, short_name=file.short)
    column, holds = row_column(file.path, file.kind, file.column)
    rows = tuple(written(iter_rows(file.path, file.kind, column, holds), chat, where=file.path.name))
    return as_held(Corpus(name, rows, _PARAGRAPHS, origin, short_name=file.short), holds, chat)


def as_held(corpus: Corpus, holds: Holds, chat: ChatWriter | None) -> Corpus:
    """Say of conversations how they were written."""
    if chat is None or holds is not Holds.CONVERSATIONS:
        return corpus
    how = "by the chat template" if chat.kind is TextKind.CHAT else "without a chat template"
    return replace(corpus, separator=chat.separator, kind=chat.kind, origin=f"{corpus.origin}, conversations {how}")


def _load_hub(spec: str, purpose: Purpose, chat: ChatWriter | None) -> Corpus | None:
    found = _HUB_SPEC.fullmatch(spec)
    if found is None:
        return None
    from llmprune.text.hub_text import read_hub_dataset  # noqa: PLC0415 - as above

    parts = (found["parts"] or "").split(":", maxsplit=2)
    config, split, column = (part or None for part in (*parts, "", "")[:3])
    usual = {"calibration": ("train",), "evaluation": ("test", "validation", "train")}[purpose]
    splits = (split,) if split else usual
    text = read_hub_dataset(found["repo"], config=config, splits=splits, column=column, chat=chat)
    note = _hub_note(text, purpose, split)
    return as_held(Corpus(text.spec, text.rows, _PARAGRAPHS, text.origin, note), text.holds, chat)


def _hub_note(text: HubText, purpose: Purpose, asked: str | None) -> str | None:
    notes = []
    if text.truncated:
        notes.append(f"{text.spec} was read as far as its first {len(text.rows):,} rows.")
    if purpose == "evaluation" and asked is None and text.spec.split(":")[2] == "train":
        notes.append(f"{text.spec} has no test or validation split, so its train split stands in.")
    return " ".join(notes) or None


def _unknown(spec: str, purpose: Purpose) -> CorpusError:
    near = difflib.get_close_matches(spec, _NAMES, n=1)
    hint = f"Did you mean {near[0]}?" if near else "A missing file? A local text ends in .txt, .jsonl or .parquet."
    if "," in spec and purpose == "calibration":
        hint = "In a mixture, every source has a number of windows: wikitext2:64,c4:32."
    elif "," in spec:
        hint = "Several texts are typed one by one, as in `source=wikitext2` `source=c4`."
    return CorpusError(
        f"There is no text source '{spec:.200}'. {hint} Named sources are {', '.join(_NAMES)}; "
        "others are a file or a Hub data set owner/name[:config[:split[:column]]]."
    )
