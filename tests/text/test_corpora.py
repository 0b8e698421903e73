"""Named and local sources; the Hub is in test_hub_text.py."""

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprune.errors import CorpusError, TargetError, UserError
from llmprune.text.columns import Holds, choose_column, take
from llmprune.text.corpora import Corpus, load_corpus
from llmprune.text.local_text import text_lines

WIKITEXT = Path(__file__).parents[3] / "shared" / "data" / "wikitext2_raw"
needs_wikitext = pytest.mark.skipif(not WIKITEXT.is_dir(), reason="no WikiText-2 files in ../shared/data")


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def json_lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


# Local files: every kind is in test_kinds.py


@pytest.mark.parametrize("suffix", [".txt", ".raw", ".md"])
def test_a_text_file_is_one_row_as_it_is(tmp_path, suffix):
    text = "One.\r\n\n Two\x0b three \u2028 four.\n"
    spec = write(tmp_path / f"notes{suffix}", text)
    corpus = load_corpus(spec)
    assert (corpus.name, corpus.rows, corpus.text, corpus.note) == (spec, (text,), text, None)
    assert corpus.origin == f"file notes{suffix}"


def test_json_lines(tmp_path):
    lines = json_lines({"text": "a", "body": "A"}, {"text": None, "body": "B"}) + "\n" + json_lines({"text": "c"})
    for name, content in [("x.jsonl", lines.encode()), ("x.json", b"\xef\xbb\xbf" + lines.encode())]:
        assert load_corpus(write(tmp_path / name, content)).rows == ("a", "c")
    zipped = write(tmp_path / "x.json.gz", gzip.compress(lines.encode()))
    assert load_corpus(zipped).rows == ("a", "c")
    only = write(tmp_path / "only.jsonl", json_lines({"n": 1, "body": "B"}))
    assert load_corpus(only).rows == ("B",)
    both = (
        load_corpus(f"{tmp_path}/both.jsonl:body")
        if write(tmp_path / "both.jsonl", json_lines({"text": "a", "body": "A"}))
        else None
    )
    assert (both.rows, both.name) == (("A",), f"{tmp_path}/both.jsonl:body")
    assert load_corpus(both.name) == both


def test_parquet(tmp_path):
    path = tmp_path / "x.parquet"
    table = pa.table({"text": ["a", None, "c"], "big": pa.array(["A", "B", "C"], pa.large_string()), "n": [1, 2, 3]})
    pq.write_table(table, path)
    assert load_corpus(str(path)).rows == ("a", "c")
    assert load_corpus(f"{path}:big").rows == ("A", "B", "C")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("nowhere/notes.txt", "There is no file"),
        ("nowhere/notes.jsonl:text", "There is no file"),
        ("./notes", "There is no file"),
        ("wikitext2:nowhere.raw", "There is no file"),
        ("wikitext2:nowhere", "There is no file"),
        (".", "is a folder"),
        ("wikitxt2", "Did you mean wikitext2?"),
        ("wikitext2:64", "For 64 windows of wikitext2, type `source=wikitext2` and `samples=64`"),
        ("wikitext2,c4", "In a mixture, every source has a number of windows: wikitext2:64,c4:32"),
        ("penn", "Named sources are wikitext2, c4, ptb, python-docs, auto, self"),
        ("", "There is no text source ''"),
        ("owner/name/more", "There is no text source"),
        ("self", "it needs a model"),
        ("x" * 5_000, "There is no text source"),
    ],
)
def test_unknown_sources_are_explained(spec, expected):
    with pytest.raises(CorpusError) as caught:
        load_corpus(spec)
    assert expected in str(caught.value)


def test_a_plain_text_has_no_columns(tmp_path):
    with pytest.raises(CorpusError, match="has no column 'text'"):
        load_corpus(write(tmp_path / "a.txt", "words") + ":text")
    with pytest.raises(CorpusError, match="made of documents"):
        load_corpus("c4:" + write(tmp_path / "a.txt", "words"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_closed_file_is_explained(tmp_path):
    path = Path(write(tmp_path / "a.txt", "words"))
    path.chmod(0)
    with pytest.raises(CorpusError, match="Permission denied"):
        load_corpus(str(path))


@given(st.text(max_size=30).filter(lambda spec: "/" not in spec and spec.strip() not in ("auto", "wikitext2")))
def test_whatever_is_typed_the_answer_is_a_corpus_or_a_user_error(spec):
    if spec.strip() in ("c4", "ptb"):
        return  # these ask the Hub
    try:
        load_corpus(spec)
    except UserError as error:
        assert str(error)


def test_purpose_is_checked():
    with pytest.raises(TargetError, match="expected one of calibration, evaluation"):
        load_corpus("python-docs", purpose="test")


# Published protocols from local copies


def test_wikitext_rows_are_the_hubs(tmp_path):
    spec = "wikitext2:" + write(tmp_path / "wiki.test.raw", " \n = A = \n \n Words \u2028 here . \n")
    corpus = load_corpus(spec, purpose="evaluation")
    assert corpus.rows == ("", " = A = \n", "", " Words \u2028 here . \n")
    assert (corpus.name, corpus.separator) == (spec, "\n\n")
    assert "4,358" in corpus.note


def test_ptb_and_c4_from_local_copies(tmp_path):
    ptb = load_corpus("ptb:" + write(tmp_path / "ptb.test.txt", " no it was n't \n black monday \n"))
    assert ptb.text == "no it was n't black monday"
    many = write(tmp_path / "c4.jsonl", json_lines(*({"text": str(i)} for i in range(1_200))))
    c4 = load_corpus("c4:" + many, purpose="evaluation")
    assert (len(c4.rows), c4.separator, c4.note) == (1_100, " ", None)
    assert load_corpus("c4:" + many).note.startswith("1,200 rows were read, where c4 takes 5,000")


@needs_wikitext
def test_wikitext2_test_split_has_the_hubs_rows():
    corpus = load_corpus(f"wikitext2:{WIKITEXT / 'wiki.test.raw'}", purpose="evaluation")
    assert (len(corpus.rows), corpus.note) == (4_358, None)
    assert corpus.rows[:3] == ("", " = Robert Boulter = \n", "")
    assert len(corpus.text) == 1_294_336
    assert corpus.fingerprint.startswith("1759a9e7")


# python-docs and auto


def test_python_docs_hold_out_what_evaluates():
    calibration, evaluation = (load_corpus("python-docs", purpose=p) for p in ("calibration", "evaluation"))
    assert calibration == load_corpus("python-docs")
    assert len(calibration.text) > 200_000
    assert len(evaluation.text) > 40_000
    paragraphs = [
        {part for row in corpus.rows for part in row.split("\n\n") if len(part) > 80}
        for corpus in (calibration, evaluation)
    ]
    assert paragraphs[0].isdisjoint(paragraphs[1])
    assert "pydoc_data.topics" in calibration.origin


def test_a_python_without_its_docs(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pydoc_data.topics", None)
    with pytest.raises(CorpusError, match="installed without its help texts"):
        load_corpus("python-docs")


# Small parts


@given(st.lists(st.text(), max_size=5), st.lists(st.text(), max_size=5), st.text(max_size=3), st.text(max_size=3))
def test_equal_fingerprints_mean_equal_texts(rows, others, separator, another):
    one, two = (Corpus("n", tuple(r), s, "o") for r, s in ((rows, separator), (others, another)))
    assert (one.fingerprint == two.fingerprint) == ((rows, separator) == (others, another))


def test_fingerprint_is_what_its_docstring_says():
    import hashlib

    framed = b"".join(len(part).to_bytes(8, "little") + part for part in (b" ", b"a", "\u00e9".encode()))
    assert Corpus("n", ("a", "\u00e9"), " ", "o").fingerprint == hashlib.sha256(framed).hexdigest()


@given(st.text(alphabet="ab\n\r\x0b\x85\u2028"))
def test_lines_join_to_the_text_and_end_at_newlines_alone(text):
    lines = list(text_lines(text))
    assert "".join(lines) == text
    assert all(line.count("\n") == 1 and line.endswith("\n") for line in lines[:-1])


@given(st.lists(st.text(max_size=4)), st.none() | st.integers(0, 6), st.none() | st.integers(0, 12))
def test_take_is_a_prefix_that_stops_as_soon_as_it_may(rows, max_rows, max_chars):
    kept, truncated = take(rows, max_rows=max_rows, max_chars=max_chars)
    assert list(kept) == rows[: len(kept)]
    assert truncated == (len(kept) < len(rows))
    enough = len(kept) == max_rows or (max_chars is not None and sum(map(len, kept)) >= max_chars)
    assert enough or not truncated
    assert max_rows is None or len(kept) <= max_rows
    assert max_chars is None or sum(map(len, kept[:-1])) < max(max_chars, 1)


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        ("{folder}/a.txt", "a.txt"),
        ("{folder}/a.jsonl:body", "a.jsonl:body"),
        ("wikitext2:{folder}/a.txt", "wikitext2:a.txt"),
        ("c4:{folder}/a.jsonl:body", "c4:a.jsonl:body"),
        ("python-docs", "python-docs"),
    ],
)
def test_a_label_names_no_folder(spec, label, tmp_path):
    write(tmp_path / "a.txt", b"The sea.\n")
    write(tmp_path / "a.jsonl", b'{"body": "The sea."}\n')
    corpus = load_corpus(spec.format(folder=tmp_path))
    assert (corpus.name, corpus.label) == (spec.format(folder=tmp_path), label)


def test_choose_column_names_what_there_is():
    assert choose_column({"text": Holds.STRINGS, "other": Holds.STRINGS}, None, where="x") == "text"
    assert choose_column({"id": Holds.OTHER, "body": Holds.STRINGS}, None, where="x") == "body"
    with pytest.raises(CorpusError, match="it has no columns"):
        choose_column({}, None, where="x")
