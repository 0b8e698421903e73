"""What `datasets` streams out of single files, against other readers of the same files."""

import gc
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmprune.errors import CorpusError
from llmprune.text.columns import Holds
from llmprune.text.local_text import iter_rows, text_lines
from llmprune.text.tables import open_table

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data")


@needs_data
def test_c4_is_read_as_our_own_reader_of_json_lines_reads_it(tmp_path):
    lines = DATA / "c4" / "c4_text.derived.jsonl"
    zipped = tmp_path / "c4.json.gz"
    zipped.write_bytes(gzip.compress(lines.read_bytes() * 12))  # three chunks of those that are parsed at a time
    rows = list(open_table(zipped, "json").rows("text"))
    assert rows == list(iter_rows(lines, "jsonl", "text")) * 12


@needs_data
def test_wikitext_is_read_line_by_line_blank_ones_and_newlines_kept(tmp_path):
    lines = list(text_lines((DATA / "wikitext2_raw" / "wiki.test.raw").read_text(encoding="utf-8")))
    rows = [line if line.strip() else "" for line in lines]
    path = tmp_path / "test.parquet"
    pq.write_table(pa.table({"text": rows}), path, row_group_size=100)
    assert list(open_table(path, "parquet").rows("text")) == rows


def test_only_the_wanted_column_of_parquet_is_read(tmp_path):
    path = tmp_path / "wide.parquet"
    pq.write_table(pa.table({"image": [b"x" * 100] * 5, "text": ["a", None, "", "b", "c"]}), path, compression="none")
    content = bytearray(path.read_bytes())
    offset = pq.ParquetFile(path).metadata.row_group(0).column(0).dictionary_page_offset
    content[offset : offset + 8] = b"\xff" * 8  # the other column is damaged
    path.write_bytes(content)
    table = open_table(path, "parquet")
    assert table.columns() == {"image": Holds.OTHER, "text": Holds.STRINGS}
    assert list(table.rows("text")) == ["a", "", "b", "c"]
    with pytest.raises(Exception, match=r"deserialize|read|Parquet|Thrift"):
        list(table.rows("image"))


@pytest.mark.parametrize(
    ("kind", "strings"),
    [(pa.string(), True), (pa.large_string(), True), (pa.string_view(), True), (pa.int64(), False)],
)
def test_which_columns_hold_strings(tmp_path, kind, strings):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": pa.array(["1", "2"]).cast(kind)}), path)
    assert open_table(path, "parquet").columns() == {"text": Holds.STRINGS if strings else Holds.OTHER}


def test_a_column_whose_first_row_is_empty_still_holds_strings(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"text": None}, {"text": "b"}]))
    table = open_table(path, "json")
    assert (table.columns(), list(table.rows("text"))) == ({"text": Holds.STRINGS}, ["b"])


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_chunk_of_csv_that_is_taken_for_numbers_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("text\n" + "word\n" * 10_000 + "7\n" * 10)
    with pytest.raises(CorpusError, match=r"x\.csv, row 10001: expected a string in 'text', found one int\."):
        list(open_table(path, "csv").rows("text"))
    gc.collect()  # here, where it may be heard that the reader of CSV leaves its file open
