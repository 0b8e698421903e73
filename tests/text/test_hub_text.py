"""Hub sources against the Hub of conftest.py: no test needs a network."""

import gzip
import io
import json
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

CONVERTED = "refs/convert/parquet"
NOWHERE = "http://127.0.0.1:9"


def parquet(**columns: list) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def json_gz(texts: list[str]) -> bytes:
    return gzip.compress("".join(json.dumps({"text": text, "url": "u"}) + "\n" for text in texts).encode())


WIKITEXT = {
    "README.md": b"# WikiText",
    "wikitext-2-raw-v1/train-00000-of-00001.parquet": parquet(text=["", " = A = \n", " Some words . \n"]),
    "wikitext-2-raw-v1/test-00000-of-00001.parquet": parquet(text=["", " = B = \n"]),
}


def test_wikitext2_reads_train_to_calibrate_and_test_to_evaluate(hub):
    commit = hub.add("Salesforce/wikitext", WIKITEXT)
    train, test, auto = hub.load("wikitext2", ("wikitext2", "evaluation"), "auto")
    assert train["rows"] == ["", " = A = \n", " Some words . \n"]
    assert test["rows"] == ["", " = B = \n"]
    assert train["separator"] == "\n\n"
    assert train["origin"] == (f"Hub Salesforce/wikitext wikitext-2-raw-v1/train-00000-of-00001.parquet @{commit}")
    assert "36,718" in train["note"]  # these three rows are not the protocol's
    assert auto == train


def test_the_cache_answers_without_the_hub(hub):
    hub.add("Salesforce/wikitext", WIKITEXT)
    hub.add("o/n", {"default/train/0000.parquet": parquet(text=["kept"])}, CONVERTED)
    online = hub.load("wikitext2", "auto", "o/n")
    assert hub.load("wikitext2", "auto", "o/n", HF_ENDPOINT=NOWHERE) == online
    assert hub.load("wikitext2", "auto", "o/n", HF_HUB_OFFLINE="1") == online


def test_c4_reads_the_first_documents(hub):
    hub.add(
        "allenai/c4",
        {
            "en/c4-train.00000-of-01024.json.gz": json_gz([f"train {i}" for i in range(5_010)]),
            "en/c4-validation.00000-of-00008.json.gz": json_gz([f"validation {i}" for i in range(1_200)]),
        },
    )
    train, validation = hub.load("c4", ("c4", "evaluation"))
    assert (len(train["rows"]), train["rows"][-1], train["note"]) == (5_000, "train 4999", None)
    assert (len(validation["rows"]), validation["rows"][-1]) == (1_100, "validation 1099")
    assert validation["separator"] == " "
    assert "first 1,100 rows" in validation["origin"]


def test_ptb_comes_from_the_parquet_branch(hub):
    hub.add("ptb-text-only/ptb_text_only", {"ptb_text_only.py": b"raise SystemExit"})
    files = {
        "penn_treebank/train/0000.parquet": parquet(sentence=["no it was n't", "black monday"]),
        "penn_treebank/test/0000.parquet": parquet(sentence=["a test"]),
    }
    commit = hub.add("ptb-text-only/ptb_text_only", files, CONVERTED)
    train, test = hub.load("ptb", ("ptb", "evaluation"))
    assert (train["name"], train["rows"], train["separator"]) == (
        "ptb",
        ["no it was n't", "black monday"],
        " ",
    )
    assert test["rows"] == ["a test"]
    assert train["origin"].endswith(f"penn_treebank train {CONVERTED}@{commit}")


def test_any_data_set(hub):
    files = {
        "default/train/0000.parquet": parquet(text=["one", None], title=["x", "y"]),
        "default/train/0001.parquet": parquet(text=["two"], title=["z"]),
        "default/validation/0000.parquet": parquet(text=["held"], title=["h"]),
        "other/partial-train/0000.parquet": parquet(body=["only"], id=[1]),
        "old/n-train.parquet": parquet(text=["older layout"]),
    }
    hub.add("o/n", files, CONVERTED)
    answers = hub.load("o/n", ("o/n", "evaluation"), "o/n:other", "o/n::validation:title", "o/n:old")
    assert [answer["name"] for answer in answers] == [
        "o/n:default:train:text",
        "o/n:default:validation:text",
        "o/n:other:train:body",
        "o/n:default:validation:title",
        "o/n:old:train:text",
    ]
    assert [answer["rows"] for answer in answers] == [
        ["one", "two"],
        ["held"],
        ["only"],
        ["h"],
        ["older layout"],
    ]
    assert {answer["note"] for answer in answers} == {None}
    assert hub.load(answers[3]["name"]) == [answers[3]]


def test_evaluation_on_train_is_said(hub):
    hub.add("o/n", {"default/train/0000.parquet": parquet(text=["one"])}, CONVERTED)
    guessed, asked = hub.load(("o/n", "evaluation"), ("o/n:default:train", "evaluation"))
    assert "train split stands in" in guessed["note"]
    assert asked["note"] is None


def test_large_data_sets_are_read_in_part(hub):
    shard = parquet(text=["x" * 2**20] * 10)
    hub.add("o/n", {f"default/train/{i:04}.parquet": shard for i in range(4)}, CONVERTED)
    (answer,) = hub.load("o/n")
    assert len(answer["rows"]) == 16
    assert "first 16 rows" in answer["note"]
    assert not any("0002.parquet" in path for _, path in hub.asked)


CARD = b"""---
configs:
- config_name: prose
  sample_by: paragraph
  data_files: [{split: train, path: "a/*.txt"}, {split: test, path: held.txt}]
- config_name: verse
  data_files: verse.txt
---
# Fresh
"""
FRESH = {
    "README.md": CARD,
    "a/1.txt": b"uno\ndue\n\ntre",
    "a/2 [x].txt": b"quattro",
    "held.txt": b"cinque",
    "verse.txt": b"one\n\ntwo",
}


def test_without_a_parquet_branch_the_data_sets_own_files_are_read(hub):
    commit = hub.add("o/fresh", FRESH)
    listed = [{"text": "one", "n": 1}, {"text": None, "n": 2}, {"text": "two", "n": 3}]
    hub.add("o/list", {"data.json": json.dumps(listed).encode()})
    specs = ["o/fresh:prose", ("o/fresh:prose", "evaluation"), "o/list"]
    online = hub.load(*specs)
    assert [(answer["name"], answer["rows"]) for answer in online] == [
        ("o/fresh:prose:train:text", ["uno\ndue", "tre", "quattro"]),
        ("o/fresh:prose:test:text", ["cinque"]),
        ("o/list:default:train:text", ["one", "two"]),
    ]
    assert online[0]["origin"] == f"Hub o/fresh prose train @{commit}"
    assert hub.load(*specs, HF_HUB_OFFLINE="1") == hub.load(*specs, HF_ENDPOINT=NOWHERE) == online
    assert not list((hub.home / "datasets").rglob("*.*"))  # neither copies nor locks


def test_mistakes_without_a_parquet_branch(hub):
    hub.add("o/fresh", FRESH)
    hub.add("o/list", {"data.json": b'[{"text": "one", "n": 1}]'})
    hub.add("o/plain", {"train.jsonl": b'{"text": "a"}\n'})
    hub.add("o/mixed", {"train.jsonl": b'{"text": "a", "n": 1}\n{"text": 3}\n'})
    hub.add("o/later", {"data.json": b'[{"text": "one"}, {"text": 2}]'})
    hub.add("o/numbers", {"data.json": b"[1, 2]"})
    hub.add("o/broken", {"train.jsonl": b'{"text": \n'})
    hub.add("o/images", {"train/a.png": b"\x89PNG", "train/b.png": b"\x89PNG"})
    hub.add("o/none", {"README.md": b"# Nothing"})
    hub.add("o/script", {"script.py": b"raise SystemExit", "README.md": b"# Old"})
    expected = {
        "o/fresh": ["has several configs and no default; it has prose, verse. Type `source=o/fresh:prose`."],
        "o/fresh:song": ["has no config 'song'; it has prose, verse. Type `source=o/fresh:prose`."],
        "o/fresh:prose:dev": ["has no split 'dev' in config 'prose'; it has train, test."],
        "o/list:::n": ["Column 'n' of o/list does not hold strings; its columns are text, n (no strings)."],
        "o/plain:other": ["has no config 'other'; it has default."],
        "o/mixed": ["has no column of strings; its columns are text (no strings), n (no strings)"],
        "o/later": ["The Hub data set o/later cannot be read: ", "got a 'int' object"],
        "o/numbers": ["has no column of strings; its columns are text (no strings). Give another `source`."],
        "o/broken": ["The Hub data set o/broken cannot be read: JSON parse error"],
        "o/images": ["is made of imagefolder files; expected one of parquet, json, csv, text, arrow."],
        "o/none": ["The Hub data set o/none cannot be read:"],
        "o/script": ["The Hub data set o/script cannot be read: Dataset scripts are no longer supported"],
    }
    for answer, words in zip(hub.load(*expected), expected.values(), strict=True):
        assert answer["error"] == "CorpusError"
        assert [word for word in words if word not in answer["message"]] == []
        assert "\n" not in answer["message"]


def test_a_copy_that_datasets_made_is_read_offline(hub, tmp_path):
    """Of a data set that somebody loaded before with `datasets` itself, into its cache under HF_HOME."""
    made = "import datasets, sys; datasets.load_dataset('o/fresh', 'prose')"
    hub.add("o/fresh", FRESH)
    hub.run(made, strict=False)
    (copy,) = hub.load("o/fresh:prose", HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(tmp_path / "empty"))
    assert (copy["name"], copy["rows"]) == ("o/fresh:prose:train:text", ["uno\ndue", "tre", "quattro"])
    (none,) = hub.load("o/other", HF_HUB_OFFLINE="1")
    assert none["error"] == "HubUnreachableError"


def test_a_damaged_file_is_said(hub):
    hub.add("o/n", {"default/train/0000.parquet": b"PAR1 and no more"}, CONVERTED)
    hub.add("allenai/c4", {"en/c4-train.00000-of-01024.json.gz": json_gz(["text"] * 99)[:-20]})
    for answer in hub.load("o/n", "c4"):
        assert answer["error"] == "CorpusError"
        assert "cannot be read: " in answer["message"]


def test_mistakes_are_explained(hub):
    files = {
        "default/train/0000.parquet": parquet(text=["t"], title=["x"], id=[1]),
        "other/train/0000.parquet": parquet(a=["t"], b=["x"]),
    }
    hub.add("o/n", files, CONVERTED)
    many = {f"{config}/train/0000.parquet": parquet(text=["t"]) for config in ("one", "two")}
    hub.add("o/many", many, CONVERTED)
    hub.add("o/empty", {"default/train/0000.parquet": parquet(text=["", " "])}, CONVERTED)
    hub.add("o/gated", files, CONVERTED)
    hub.repositories["o/gated"].gated = True
    hub.fail("GET", "/api/datasets/o/closed", status=403, headers={"X-Error-Code": "GatedRepo"})
    expected = {
        "o/n:nope": ["no config 'nope'", "it has default, other", "`source=o/n:default`"],
        "o/n:default:nope": ["no split 'nope'", "it has train"],
        "o/n:default:train:nope": ["Column 'nope'", "does not exist", "title"],
        "o/n:default:train:id": ["Column 'id'", "does not hold strings"],
        "o/n:other": ["no column 'text'", "2 columns of strings", "a, b"],
        "o/many": ["several configs", "it has one, two"],
        "o/absent": ["There is no Hub data set o/absent"],
        "o/gated": ["o/gated is gated", "hf auth login"],
        "o/closed": ["o/closed is gated", "hf auth login"],
        "o/bad..name": ["no name that the Hub allows"],
        "o/empty": ["holds no text"],
    }
    for answer, words in zip(hub.load(*expected), expected.values(), strict=True):
        assert answer["error"] == "CorpusError"
        assert [word for word in words if word not in answer["message"]] == []


def test_a_token_that_the_hub_refuses_is_said_unless_the_cache_has_the_text(hub):
    hub.add("o/n", {"default/train/0000.parquet": parquet(text=["kept"])}, CONVERTED)
    refused = {"HF_TOKEN": "hf_" + "ExpiredTokenOfNobodyInParticular01"}
    (answer,) = hub.load("o/n", **refused)
    assert answer["error"] == "HubUnreachableError"
    assert "does not accept the token of this machine" in answer["message"] and "hf auth login" in answer["message"]
    assert refused["HF_TOKEN"] not in answer["message"]
    assert hub.load("o/n") == hub.load("o/n", **refused)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"HF_ENDPOINT": NOWHERE}, "the Hub cannot be reached"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
    ],
)
def test_no_network_is_said_quickly_with_a_way_on(hub, environment, reason):
    started = time.monotonic()
    *answers, auto = hub.load("wikitext2", "c4", "ptb", "o/n", "auto", **environment)
    assert time.monotonic() - started < 20  # five sources and two imports; retries alone would take 30 s each
    for answer in answers:
        assert answer["error"] == "HubUnreachableError"
        assert reason in answer["message"]
        assert "`source=python-docs`" in answer["message"]
    assert auto["name"] == "python-docs"
    assert reason in auto["note"]


def test_a_hub_that_lacks_or_fails_still_leaves_auto(hub):
    hub.add("Salesforce/wikitext", {"README.md": b""})
    named, auto = hub.load("wikitext2", "auto")
    assert "has no file wikitext-2-raw-v1/train-00000-of-00001.parquet" in named["message"]
    assert auto["name"] == "python-docs"
    hub.fail("GET", "", times=99, status=503)
    named, auto = hub.load("wikitext2", "auto")
    assert (named["error"], auto["name"]) == ("HubUnreachableError", "python-docs")
    assert "HTTP status 503" in named["message"]
