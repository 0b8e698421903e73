"""Every kind of local text: what rows it gives, or the one sentence that refuses it."""

import codecs
import gzip
import io
import json
import os
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmprune.errors import CorpusError
from llmprune.text import local_text
from llmprune.text.corpora import load_corpus

WORDS = "The sea, café. 海"
HALF = ["a", "b", None]


def lines(*records: object) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def parquet(columns: dict[str, object] | pa.Table, **options: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), buffer, **options)
    return buffer.getvalue()


def damaged_strings() -> pa.Array:
    """A column of strings whose bytes are no UTF-8."""
    offsets = (0).to_bytes(4, "little") + (2).to_bytes(4, "little")
    return pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(b"a\xff")])


GOOD: dict[str, tuple[str, bytes | Callable[[], bytes], list[str]]] = {
    # Plain text is one row, as it is.
    "UTF-8": ("x.txt", WORDS.encode(), [WORDS]),
    "a byte order mark": ("x.txt", codecs.BOM_UTF8 + WORDS.encode(), [WORDS]),
    "every newline": ("x.txt", b"a\rb\r\nc\nd\x0be", ["a\rb\r\nc\nd\x0be"]),
    "control characters": ("x.txt", b"a\x01\x1bb", ["a\x01\x1bb"]),
    "capitals in the suffix": ("x.TXT", b"a", ["a"]),
    "nothing but a suffix": (".txt", b"a", ["a"]),
    # JSON lines
    "a first row without a value": ("x.jsonl", lines({"text": None}, {"text": "b"}), ["b"]),
    "another column while text has no value": (
        "x.jsonl",
        lines({"text": None, "b": "x"}, {"text": None, "b": "y"}),
        ["x", "y"],
    ),
    "fields of every type": ("x.jsonl", lines({"text": "a", "n": 1}, {"text": "b", "n": {"x": [None]}}), ["a", "b"]),
    "dates": (
        "x.jsonl",
        lines({"text": "2020-01-01"}, {"text": "2020-01-01T00:00"}),
        ["2020-01-01", "2020-01-01T00:00"],
    ),
    "numbers that are none in JSON": ("x.jsonl", b'{"text":"a","n":NaN}\n{"text":"b","n":-Infinity}\n', ["a", "b"]),
    "a number of 5,000 digits": ("x.jsonl", b'{"text":"a","n":' + b"1" * 5_000 + b"}\n", ["a"]),
    "a field that comes twice": ("x.jsonl", b'{"text":"a","text":"b"}\n', ["b"]),
    "blank lines and carriage returns": ("x.jsonl", b'{"text":"a"}\r\n\r\n  {"text":"b"}\r\n', ["a", "b"]),
    "no newline at the end": ("x.jsonl", b'{"text":"a"}', ["a"]),
    "files put behind one another": (
        "x.jsonl",
        codecs.BOM_UTF8 + lines({"text": "a"}) + codecs.BOM_UTF8 + lines({"text": "b"}),
        ["a", "b"],
    ),
    "separators of Unicode": ("x.jsonl", '{"text":"a\u2028b\x85c"}\n'.encode(), ["a\u2028b\x85c"]),
    "an escaped zero": ("x.jsonl", b'{"text":"a\\u0000b"}\n', ["a\0b"]),
    "half a surrogate pair": ("x.jsonl", b'{"text":"a\\ud83d"}\n', ["a\ufffd\ufffd\ufffd"]),
    "empty rows among others": ("x.jsonl", lines({"text": ""}, {"text": "a"}, {"text": " "}), ["", "a", " "]),
    "a column with a colon": ("x.jsonl:b:c", lines({"text": "a", "b:c": "x"}), ["x"]),
    "two gzip files in one": (
        "x.json.gz",
        gzip.compress(lines({"text": "a"})) + gzip.compress(lines({"text": "b"})),
        ["a", "b"],
    ),
    "gzip and zeros behind it": ("x.jsonl.gz", gzip.compress(lines({"text": "a"})) + b"\0\0", ["a"]),
    # Parquet
    "large strings": ("x.parquet", lambda: parquet({"text": pa.array(HALF, pa.large_string())}), ["a", "b"]),
    "string views": ("x.parquet", lambda: parquet({"text": pa.array(HALF, pa.string_view())}), ["a", "b"]),
    "categories": ("x.parquet", lambda: parquet({"text": pa.array(HALF).dictionary_encode()}), ["a", "b"]),
    "large categories": (
        "x.parquet",
        lambda: parquet({"text": pa.array(HALF, pa.large_string()).dictionary_encode()}),
        ["a", "b"],
    ),
    "text beside a map": (
        "x.parquet",
        lambda: parquet({"m": pa.array([[("k", "v")]] * 3, pa.map_(pa.string(), pa.string())), "text": HALF}),
        ["a", "b"],
    ),
    "text beside an extension": (
        "x.parquet",
        lambda: parquet({"u": pa.array([b"0" * 16] * 3, pa.uuid()), "text": HALF}),
        ["a", "b"],
    ),
    "text beside lists and bytes": (
        "x.parquet",
        lambda: parquet({"l": [["x"]] * 3, "b": [b"x"] * 3, "t": HALF}),
        ["a", "b"],
    ),
    "a first row group without a value": (
        "x.parquet",
        lambda: parquet({"text": pa.array([None, None, "c"], pa.string())}, row_group_size=2),
        ["c"],
    ),
    "zstd": ("x.parquet", lambda: parquet({"text": HALF}, compression="zstd"), ["a", "b"]),
    "a column with a colon in Parquet": (
        "x.parquet:b:c",
        lambda: parquet({"text": HALF, "b:c": ["x", "y", "z"]}),
        ["x", "y", "z"],
    ),
}

BAD: dict[str, tuple[str, bytes | Callable[[], bytes], str]] = {
    # Plain text
    "nothing": ("x.txt", b"", "'x.txt' is empty; a text of some thousand words was expected."),
    "white space": ("x.txt", b" \n\t\r\n", "is empty"),
    "a byte order mark alone": ("x.txt", codecs.BOM_UTF8, "is empty"),
    "UTF-16": ("x.txt", WORDS.encode("utf-16"), "is not UTF-8 text (it begins as UTF-16 does); convert it, or"),
    "UTF-16, big end first": ("x.txt", codecs.BOM_UTF16_BE + WORDS.encode("utf-16-be"), "it begins as UTF-16 does"),
    "UTF-16 without a mark": ("x.txt", "The sea".encode("utf-16-le"), "is a binary file (it holds zero bytes)"),
    "Latin-1": ("x.txt", "café".encode("latin-1"), "is not UTF-8 text (byte 0xe9 at position 3)"),
    "Windows' quotes": ("x.txt", b"it\x92s", "byte 0x92 at position 2"),
    "Shift-JIS": ("x.txt", "海".encode("shift_jis"), "byte 0x8a at position 0"),
    "a cut character": ("x.txt", WORDS.encode()[:-1], "byte 0xe6 at position 16"),
    "surrogates": ("x.txt", b"\xed\xa0\x80", "byte 0xed at position 0"),
    "a zero byte": ("x.txt", b"a\0b", "is a binary file"),
    "gzip": ("x.txt", gzip.compress(b"text", mtime=0), "is not UTF-8 text"),
    "a PDF": ("x.txt", b"%PDF-1.4\n%\xe2\xe3", "is not UTF-8 text"),
    **{
        f"a {end}": (f"x{end}", b"a", f"'x{end}' is of an unknown kind; expected one of .txt, .raw, .md, .jsonl,")
        for end in (".csv", ".tsv", ".html", ".pdf", ".txt.gz", ".jsonl.zst", ".jsonl.bz2", ".parquet.gz", ".zip", "")
    },
    # JSON lines
    "no line": ("x.jsonl", b"", "'x.jsonl' is empty; expected one JSON object a line."),
    "blank lines": ("x.jsonl", b"\n \n", "is empty"),
    "empty rows": ("x.jsonl", lines({"text": ""}, {"text": " "}), "holds no text (file x.jsonl); give another source"),
    "rows without a value": ("x.jsonl", lines({"text": None}, {"text": None}), "has no column of strings"),
    "a number behind no value": ("x.jsonl", lines({"text": None}, {"text": 3}), "its columns are text (no strings)"),
    "a list": ("x.json", b'[{"text": "a"}]', "line 1 is a JSON list; expected one object a line, as in"),
    "a list over lines": ("x.json", b'[\n {"text": "a"}\n]', "line 1 is not JSON (Expecting value)"),
    "an object over lines": ("x.json", b'{\n "text": "a"\n}', "line 1 is not JSON"),
    "a string": ("x.jsonl", lines("a"), "line 1 is a JSON string"),
    "a number": ("x.jsonl", lines({"text": "a"}, 1), "line 2 is a JSON number"),
    "null": ("x.jsonl", lines(None), "line 1 is a JSON null"),
    "true": ("x.jsonl", lines(True), "line 1 is a JSON boolean"),
    "an object without fields": ("x.jsonl", lines({"text": "a"}, {}), "line 2 has no 'text': it has no fields."),
    "another field": ("x.jsonl", lines({"text": "a"}, {"b": "c"}), "line 2 has no 'text': its fields are b."),
    "a column of lists": ("x.jsonl", lines({"text": ["a"]}), "its columns are text (no strings)"),
    "a list among strings": (
        "x.jsonl",
        lines({"text": "a"}, {"text": ["b"]}),
        "line 2: expected a string in 'text', found a JSON list.",
    ),
    "an object among strings": (
        "x.jsonl",
        lines({"text": "a"}, {"text": {}}),
        "line 2: expected a string in 'text', found a JSON object.",
    ),
    "single quotes": ("x.jsonl", b"{'text': 'a'}\n", "line 1 is not JSON"),
    "a comma too many": ("x.jsonl", b'{"text":"a"},\n', "line 1 is not JSON (Extra data)"),
    "two objects a line": ("x.jsonl", b'{"text":"a"}{"text":"b"}\n', "line 1 is not JSON (Extra data)"),
    "a zero in a string": ("x.jsonl", b'{"text":"a\0b"}\n', "line 1 is not JSON (Invalid control character at)"),
    "zeros at the end": ("x.jsonl", b'{"text":"a"}\n\0\0\0', "line 2 is not JSON"),
    "100,000 brackets": ("x.jsonl", b'{"text":"a","d":' + b"[" * 100_000, "line 1 is not JSON"),
    "UTF-16 lines": ("x.jsonl", '{"text":"a"}\n'.encode("utf-16"), "it begins as UTF-16 does"),
    "UTF-16 in gzip": ("x.jsonl.gz", gzip.compress('{"text":"a"}'.encode("utf-16")), "it begins as UTF-16 does"),
    "Latin-1 lines": ("x.jsonl", b'{"text":"a"}\n{"text":"\xe9"}\n', "is not UTF-8 text"),
    "two columns": (
        "x.jsonl",
        lines({"a": "x", "b": "y", "n": 1}),
        "2 columns of strings; its columns are a, b, n (no strings). Name",
    ),
    "names of every kind": (
        "x.jsonl",
        b'{"a\\nb":"x","\\ud800":"y","' + b"k" * 99 + b'":"z"}\n',
        "its columns are a b, ?, " + "k" * 60 + ".",
    ),
    "300 columns": ("x.jsonl", lines({f"c{i}": "x" for i in range(300)}), "c10, c11 and 288 more."),
    "a column that is not there": (
        "x.jsonl:b",
        lines({"text": "a"}),
        "Column 'b' of x.jsonl does not exist; its columns are text.",
    ),
    "a column without strings": (
        "x.jsonl:n",
        lines({"text": "a", "n": 1}),
        "Column 'n' of x.jsonl does not hold strings",
    ),
    "no gzip": ("x.json.gz", lines({"text": "a"}), "x.json.gz' cannot be read: Not a gzipped file"),
    "an empty gzip": ("x.json.gz", gzip.compress(b""), "is empty"),
    "something behind gzip": (
        "x.json.gz",
        gzip.compress(lines({"text": "a"})) + b"junk",
        "cannot be read: Not a gzipped file",
    ),
    "a cut gzip": (
        "x.json.gz",
        gzip.compress(lines({"text": "a"}))[:-9],
        "cannot be read: Compressed file ended before",
    ),
    "a damaged gzip": (
        "x.json.gz",
        gzip.compress(lines({"text": "a"}))[:-8] + b"12345678",
        "cannot be read: CRC check failed",
    ),
    # Parquet
    "no Parquet": ("x.parquet", b"PAR0 and more of it", "'x.parquet' is not a readable Parquet file: "),
    "an empty file": ("x.parquet", b"", "is not a readable Parquet file: "),
    "a cut Parquet": ("x.parquet", lambda: parquet({"text": HALF})[:-4], "is not a readable Parquet file: "),
    "no columns": ("x.parquet", lambda: parquet(pa.table({})), "has no column of strings; it has no columns."),
    "no rows": ("x.parquet", lambda: parquet({"text": pa.array([], pa.string())}), "holds no text"),
    "no value": ("x.parquet", lambda: parquet({"text": pa.array([None], pa.string())}), "holds no text"),
    "a column of nothing": ("x.parquet", lambda: parquet({"text": pa.nulls(3)}), "its columns are text (no strings)"),
    "lists in Parquet": ("x.parquet", lambda: parquet({"text": [["a"], ["b"]]}), "has no column of strings"),
    "structs": ("x.parquet", lambda: parquet({"text": [{"x": "a"}]}), "has no column of strings"),
    "bytes": ("x.parquet", lambda: parquet({"text": [b"a"]}), "has no column of strings"),
    "numbers": ("x.parquet", lambda: parquet({"n": [1], "f": [1.0]}), "its columns are n (no strings), f (no strings)"),
    "categories of numbers": (
        "x.parquet",
        lambda: parquet({"text": pa.array([1, 2]).dictionary_encode()}),
        "(no strings)",
    ),
    "a column of lists by name": (
        "x.parquet:l",
        lambda: parquet({"l": [["a"]], "t": ["b"]}),
        "Column 'l' of x.parquet does not hold",
    ),
    "strings that are no UTF-8": ("x.parquet", lambda: parquet({"text": damaged_strings()}), "is not UTF-8 text"),
}


def load(folder, name: str, content) -> tuple[str, ...]:
    file = name.partition(":")[0]
    (folder / file).write_bytes(content() if callable(content) else content)
    return load_corpus(f"{folder}/{name}").rows


@pytest.mark.parametrize("kind", GOOD)
def test_a_kind_that_is_read(tmp_path, kind):
    name, content, rows = GOOD[kind]
    assert list(load(tmp_path, name, content)) == rows


@pytest.mark.parametrize("kind", BAD)
def test_a_kind_that_is_refused(tmp_path, kind):
    name, content, words = BAD[kind]
    with pytest.raises(CorpusError) as caught:
        load(tmp_path, name, content)
    said = str(caught.value)
    assert words in said
    assert "\n" not in said
    assert len(said) < 600
    said.encode()


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("x.json.gz", lambda: gzip.compress(lines(*[{"text": "a" * 100}] * 400)), "line 2"),
        ("x.jsonl", lambda: lines({"text": "short"}, {"text": "a" * 3000}), "line 2"),
        ("x.parquet", lambda: parquet({"text": ["a" * 100] * 40_000}), "row 1000"),
    ],
)
def test_a_file_that_unpacks_out_of_all_proportion_is_refused(name, content, where, tmp_path, monkeypatch):
    monkeypatch.setattr(local_text, "_SMALL", 25_000)
    monkeypatch.setattr(local_text, "_MAX_RATIO", 10)
    monkeypatch.setattr(local_text, "_MAX_LINE", 2_000)
    (tmp_path / name).write_bytes(content())
    with pytest.raises(
        CorpusError, match=rf"'{name}' holds, or unpacks to, more text than .* \({where}.*; give a part"
    ):
        load_corpus(str(tmp_path / name))


def test_a_pipe_or_a_device_is_no_text(tmp_path):
    os.mkfifo(tmp_path / "x.txt")
    (tmp_path / "y.txt").symlink_to("/dev/zero")
    for name in ("x.txt", "y.txt", "wikitext2:x.txt"):
        with pytest.raises(CorpusError, match="There is no file"):
            load_corpus(name.replace("x.txt", str(tmp_path / "x.txt")).replace("y.txt", str(tmp_path / "y.txt")))
