"""Rows of text out of local files: .txt, .raw, .md (one text), .jsonl, .json (lines, also gzipped), .parquet.

Not by `datasets`, which does worse here: of plain text it changes the newlines and keeps a byte order mark; in JSON
lines it takes strings that look like dates for dates, fails on half a surrogate pair, and names no line where something
is wrong; it refuses a whole Parquet file for one column of a type it does not know, beside the text. Parquet is read by
pyarrow, one column alone. Nothing here touches the network.
"""

from __future__ import annotations

import codecs
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from llmprune.artifacts.files.reading import read_small
from llmprune.errors import CorpusError
from llmprune.quiet import first_sentence
from llmprune.text.columns import Holds, choose_column, list_columns, what_is
from llmprune.text.conversations import MESSAGE, Row, encodable, is_conversation

Kind = Literal["text", "jsonl", "parquet"]

_KINDS: Mapping[str, Kind] = {
    ".txt": "text",
    ".raw": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".jsonl.gz": "jsonl",
    ".json.gz": "jsonl",
    ".parquet": "parquet",
}
_BATCH = 1_000  # rows of Parquet in memory at a time
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_MAX_BYTES = 1 << 30  # of a text, which is in memory as a whole
_MAX_LINE = 1 << 26  # bytes of a JSON line, which is parsed as a whole
# How many times its size a packed file may become; texts are packed into a third or a tenth.
_MAX_RATIO, _SMALL = 100, 1 << 26
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class FileSpec:
    """A local file as the user typed it: `PATH` or `PATH:COLUMN`."""

    path: Path
    kind: Kind
    column: str | None

    def __str__(self) -> str:
        return f"{self.path}:{self.column}" if self.column else str(self.path)

    @property
    def short(self) -> str:
        """The same without folders."""
        return str(replace(self, path=Path(self.path.name)))


def find_file(spec: str) -> FileSpec | None:
    """Read `spec` as a local file, or return None where it cannot mean one (but perhaps a Hub name).

    Raises:
        CorpusError: it means a file, and there is none, or it is a folder or of an unknown kind.
    """
    path = _home_expanded(spec)
    if _is(path, "file"):
        return FileSpec(path, _kind(path) or _refuse_kind(path), None)
    # The first colon behind a file's name: what follows is the column, which may have colons too.
    for head, column in ((spec[:at], spec[at + 1 :]) for at, char in enumerate(spec) if char == ":"):
        if column and (kind := _kind(Path(head))):
            return FileSpec(_existing(_home_expanded(head)), kind, _column_of(head, kind, column))
    means_a_path = spec.startswith((".", "/", "~")) or _kind(path) is not None
    if means_a_path or (_is(path, "folder") and "/" not in spec):
        _existing(path)
    return None


def read_text(path: Path) -> str:
    """The whole of a UTF-8 text file, newlines as they are, a byte order mark dropped.

    Raises:
        CorpusError: no such file, unreadable, binary, not UTF-8, or nothing but white space.
    """
    with _explained(path):
        text = read_small(path, most=_MAX_BYTES).decode("utf-8-sig")
    if "\0" in text:
        raise CorpusError(f"'{path.name}' is a binary file (it holds zero bytes); a UTF-8 text was expected.")
    if not text or text.isspace():
        raise CorpusError(f"'{path.name}' is empty; a text of some thousand words was expected.")
    return text


def text_lines(text: str) -> Iterator[str]:
    r"""Lines with their newlines, cut at "\n" alone: str.splitlines also cuts at \x0b, \x85, \u2028."""
    return (line[0] for line in _LINE.finditer(text))


def row_column(path: Path, kind: Kind, wanted: str | None) -> tuple[str, Holds]:
    """The column to read, and what it holds: `wanted` if it is there, else as `choose_column` has it.

    Raises:
        CorpusError: no such column, or no way to tell which is meant; the message names the columns.
    """
    columns = _parquet_columns(path) if kind == "parquet" else _jsonl_columns(path)
    column = choose_column(columns, wanted, where=path.name)
    return column, columns[column]


def iter_rows(path: Path, kind: Kind, column: str, holds: Holds = Holds.STRINGS) -> Iterator[Row]:
    """Yield the strings or conversations of one column in the file's order; rows without a value are left out.

    Raises:
        CorpusError: at the row that cannot be read, with its line number for JSON lines.
    """
    if kind == "parquet":
        yield from _parquet_rows(path, column)
        return
    expected = "a string" if holds is Holds.STRINGS else "messages with role and content"
    for number, record in _json_records(path):
        value = record.get(column)
        if column not in record:
            there = list_columns(dict.fromkeys(record, Holds.STRINGS)).replace("column", "field")
            raise CorpusError(f"'{path.name}', line {number} has no '{column:.60}': {there}.")
        if value is None:
            continue
        if holds is Holds.STRINGS and isinstance(value, str):
            yield encodable(value)
        elif holds is Holds.CONVERSATIONS and is_conversation(value):
            yield value
        else:
            found = _json_kind(value)
            raise CorpusError(
                f"'{path.name}', line {number}: expected {expected} in '{column:.60}', found a JSON {found}."
            )


def _kind(path: Path) -> Kind | None:
    name = path.name.lower()
    return next((kind for suffix, kind in _KINDS.items() if name.endswith(suffix)), None)


def _refuse_kind(path: Path) -> Kind:
    raise CorpusError(f"'{path.name}' is of an unknown kind; expected one of {', '.join(_KINDS)}.")


def _is(path: Path, what: Literal["file", "folder"]) -> bool:
    try:
        return path.is_file() if what == "file" else path.is_dir()
    except (OSError, ValueError):  # a name too long for the file system, or a folder closed to us
        return False


def _home_expanded(path: str) -> Path:
    """``~/...`` as a shell reads it; what names no known home stays as it is (pathlib would raise)."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def _existing(path: Path) -> Path:
    if _is(path, "folder"):
        raise CorpusError(f"'{path}' is a folder; a file was expected ({', '.join(_KINDS)}).")
    if not _is(path, "file"):
        raise CorpusError(f"There is no file '{path!s:.200}'. Check the path, or type `source=python-docs`.")
    return path


def _column_of(head: str, kind: Kind, column: str) -> str:
    if kind == "text":
        raise CorpusError(f"'{head}' is a plain text, which has no column '{column}'; type the path alone.")
    return column


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what the operating system and the decoders say about `path` into one sentence."""
    try:
        yield
    except UnicodeDecodeError as error:
        where = f"byte 0x{error.object[error.start]:02x} at position {error.start:,}"
        found = "it begins as UTF-16 does" if error.object.startswith(_UTF_16) else where
        raise CorpusError(f"'{path.name}' is not UTF-8 text ({found}); convert it, or give another file.") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CorpusError(f"'{path}' cannot be read: {reason}.") from error


def _json_records(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    with _explained(path), gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as lines:
        left = _unpacked_limit(path)
        for number, line in enumerate(iter(partial(lines.readline, _MAX_LINE + 1), b""), start=1):
            left -= len(line)
            if len(line) > _MAX_LINE or left < 0:
                raise _too_much(path, f"line {number}")
            text = line.decode("utf-8-sig").strip()  # files put behind one another bring a byte order mark each
            if text:
                yield number, _json_record(path, number, text)


def _unpacked_limit(path: Path) -> int:
    """Bytes that a file may give in all."""
    return min(_MAX_BYTES, max(_SMALL, _MAX_RATIO * path.stat().st_size))


def _too_much(path: Path, where: str) -> CorpusError:
    return CorpusError(
        f"'{path.name}' holds, or unpacks to, more text than is read of a file ({where}); give a part of it: some "
        "thousand documents are plenty."
    )


def _json_record(path: Path, number: int, text: str) -> dict[str, object]:
    expected = 'expected one object a line, as in {"text": "..."}'
    try:
        record = json.loads(text, parse_int=float)  # for an int of thousands of digits, Python refuses the line
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "too many brackets in one another"
        raise CorpusError(f"'{path.name}', line {number} is not JSON ({reason}); {expected}.") from error
    if not isinstance(record, dict):
        raise CorpusError(f"'{path.name}', line {number} is a JSON {_json_kind(record)}; {expected}.")
    return record


def _json_kind(value: object) -> str:
    names = {dict: "object", list: "list", str: "string", float: "number", bool: "boolean", type(None): "null"}
    return names[type(value)]


def _jsonl_columns(path: Path) -> dict[str, Holds]:
    """Name -> what it holds, from as many lines as it takes to see a value in every field."""
    columns: dict[str, Holds | None] = {}
    for _, record in _json_records(path):
        for name, value in record.items():
            if columns.get(name) is None:
                columns[name] = None if value is None else what_is(value)
        if columns and None not in columns.values():
            break
    if not columns:
        raise CorpusError(f"'{path.name}' is empty; expected one JSON object a line.")
    return {name: holds or Holds.OTHER for name, holds in columns.items()}


@contextmanager
def _parquet_explained(path: Path) -> Iterator[None]:
    import pyarrow as pa  # noqa: PLC0415 - 0.2 s, and a text file needs none of it

    try:
        with _explained(path):
            yield
    except pa.ArrowException as error:
        reason = f"{first_sentence(error):.300}"
        raise CorpusError(f"'{path.name}' is not a readable Parquet file: {reason}") from error


def _parquet_columns(path: Path) -> dict[str, Holds]:
    import pyarrow as pa  # noqa: PLC0415 - as above
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    def what_holds(kind: pa.DataType) -> Holds:
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind  # as categories are written
        if any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)):
            return Holds.STRINGS
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        message = lists and pa.types.is_struct(kind.value_type) and {field.name for field in kind.value_type}
        return Holds.CONVERSATIONS if message and message >= set(MESSAGE) else Holds.OTHER

    with _parquet_explained(path):
        return {field.name: what_holds(field.type) for field in pq.read_schema(path)}


def _parquet_rows(path: Path, column: str) -> Iterator[Row]:
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    with _parquet_explained(path), pq.ParquetFile(path) as table:
        left = _unpacked_limit(path)
        for number, batch in enumerate(table.iter_batches(_BATCH, columns=[column]), start=1):
            left -= batch.nbytes
            if left < 0:
                raise _too_much(path, f"row {number * _BATCH}")
            yield from (row for row in batch.column(0).to_pylist() if row is not None)
