"""Rows of text out of local files: .txt, .raw, .md (one text), .jsonl, .json (lines, also gzipped), .parquet.

Nothing here touches the network. Files that the Hub client has put on the disk are read here too.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from llmprune.errors import CorpusError
from llmprune.text.columns import choose_column

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
    head, colon, column = spec.rpartition(":")
    if colon and column and (kind := _kind(Path(head))):
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
        text = path.read_bytes().decode("utf-8-sig")
    if "\0" in text:
        raise CorpusError(f"'{path.name}' is a binary file (it holds zero bytes); a UTF-8 text was expected.")
    if not text.strip():
        raise CorpusError(f"'{path.name}' is empty; a text of some thousand words was expected.")
    return text


def text_lines(text: str) -> list[str]:
    r"""Lines with their newlines, cut at "\n" alone: str.splitlines also cuts at \x0b, \x85, \u2028."""
    lines = text.split("\n")
    last = lines.pop()
    return [line + "\n" for line in lines] + ([last] if last else [])


def row_column(path: Path, kind: Kind, wanted: str | None) -> str:
    """The column to read: `wanted` if it is there, else `text`, else the only column of strings.

    Raises:
        CorpusError: no such column, or no way to tell which is meant; the message names the columns.
    """
    columns = _parquet_columns(path) if kind == "parquet" else _jsonl_columns(path)
    return choose_column(columns, wanted, where=path.name)


def iter_rows(path: Path, kind: Kind, column: str) -> Iterator[str]:
    """Yield the strings of one column in the file's order; rows without a value are left out.

    Raises:
        CorpusError: at the row that cannot be read, with its line number for JSON lines.
    """
    if kind == "parquet":
        yield from _parquet_rows(path, column)
        return
    for number, record in _json_records(path):
        value = record.get(column)
        if column not in record or not (value is None or isinstance(value, str)):
            found = f"fields {', '.join(record)}" if column not in record else f"a {type(value).__name__}"
            raise CorpusError(f"'{path.name}', line {number}: expected a string in '{column}', found {found}.")
        if value is not None:
            yield _encodable(value)


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
        raise CorpusError(f"There is no file '{path}'. Check the path, or type `source=python-docs`.")
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
        raise CorpusError(f"'{path.name}' is not UTF-8 text ({where}); convert it, or give another file.") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CorpusError(f"'{path}' cannot be read: {reason}.") from error


def _json_records(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    with _explained(path), gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            if text:
                yield number, _json_record(path, number, text)


def _json_record(path: Path, number: int, text: str) -> dict[str, object]:
    expected = 'expected one object a line, as in {"text": "..."}'
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "too deep, or a number too long"
        raise CorpusError(f"'{path.name}', line {number} is not JSON ({reason}); {expected}.") from error
    if not isinstance(record, dict):
        raise CorpusError(f"'{path.name}', line {number} is a JSON {type(record).__name__}; {expected}.")
    return record


def _jsonl_columns(path: Path) -> dict[str, bool]:
    first = next(_json_records(path), None)
    if first is None:
        raise CorpusError(f"'{path.name}' is empty; expected one JSON object a line.")
    return {name: isinstance(value, str) for name, value in first[1].items()}


def _encodable(text: str) -> str:
    # JSON can spell half of a surrogate pair, which is no character, and which no tokenizer takes.
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text


@contextmanager
def _parquet_explained(path: Path) -> Iterator[None]:
    import pyarrow as pa  # noqa: PLC0415 - 0.2 s, and a text file needs none of it

    try:
        with _explained(path):
            yield
    except pa.ArrowException as error:
        raise CorpusError(f"'{path.name}' is not a readable Parquet file: {str(error).splitlines()[0]}") from error


def _parquet_columns(path: Path) -> dict[str, bool]:
    import pyarrow as pa  # noqa: PLC0415 - as above
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    with _parquet_explained(path):
        schema = pq.read_schema(path)
    strings = (pa.types.is_string, pa.types.is_large_string)
    return {field.name: any(is_kind(field.type) for is_kind in strings) for field in schema}


def _parquet_rows(path: Path, column: str) -> Iterator[str]:
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    with _parquet_explained(path), pq.ParquetFile(path) as table:
        for batch in table.iter_batches(columns=[column]):
            yield from (row for row in batch.column(0).to_pylist() if row is not None)
