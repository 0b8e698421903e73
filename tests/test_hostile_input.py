"""Every reader, on files and words that nobody wrote in earnest: it works, or one sentence says what is wrong.

Seeded, within ten seconds. For a long search: LLMPRUNE_FUZZ=2000 pytest tests/test_hostile_input.py
"""

import json
import os
import random
import shutil
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from llmprune.artifacts.activations import CalibrationManifest
from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint, read_weight_map
from llmprune.artifacts.checkpoints.header import build_header, read_header
from llmprune.artifacts.masks.mask import read_mask, write_mask
from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.content import with_digest
from llmprune.artifacts.records.generations import Generations
from llmprune.artifacts.records.importance import Importance
from llmprune.artifacts.records.pruning import PruningRecord
from llmprune.artifacts.records.sweep import SweepResult
from llmprune.artifacts.run import RunRecord
from llmprune.cli.app import app
from llmprune.errors import LlmpruneError
from llmprune.models.gguf import convert_gguf
from llmprune.models.loading import load_tokenizer
from llmprune.models.source import check_model
from llmprune.publishing.card import CardFacts, model_card
from llmprune.report.contents import Measurement
from llmprune.report.page import Drawn, render_page, report_sections
from llmprune.text.corpora import Corpus
from llmprune.text.tokenizer_identity import tokenizer_fingerprint
from llmprune.text.windows import sample_windows
from tests.report import made
from tests.tiny import save_tiny_llama

EXAMPLES = int(os.environ.get("LLMPRUNE_FUZZ", "0"))
VALUES = (
    None, True, -1, 0, 1, 3, 2**31, 2**63, 10**12, 10**30, 10**400, 1e18, 1e308, float("inf"), float("nan"), -0.5,
    "", "x", "6", "2:4", "a:b:c", "50%", "\x1b[31mred\n", "\u202egnp", "<script>", "`|`", "../../etc", "y" * 5000, "\0",
    [], {}, [[]], [1, 1], [-1], ["\x1b"], {"\x1b[2J\n": 1}, [10**30] * 3, "sleb", "float32",
)  # fmt: skip


def fuzzed(share: float = 1.0):
    """As many examples as were asked for, or in CI a share of thirty, always the same."""
    long = {"max_examples": EXAMPLES} if EXAMPLES else {"max_examples": max(5, round(30 * share)), "derandomize": True}
    unhurried = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(deadline=None, database=None, suppress_health_check=unhurried, **long)


def changed(content, chooser):
    """A JSON document with one to three values replaced, doubled, removed, or put under another name."""
    content = deepcopy(content)
    for _ in range(chooser.randint(1, 3)):
        places = list(_places(content))
        if not places:
            break
        holder, key = chooser.choice(places)
        match chooser.randrange(5):
            case 0 if isinstance(holder, dict):
                holder[chooser.choice(["\x1b[0m", "", "x" * 3000, "num_hidden_layers"])] = holder.pop(key)
            case 1:
                del holder[key]
            case _:
                holder[key] = deepcopy(chooser.choice(VALUES))
    return content


def _places(value):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def damaged(content: bytes, chooser) -> bytes:
    """Bytes of which some were changed, removed or put in."""
    data = bytearray(content)
    for _ in range(chooser.randint(1, 4)):
        at = chooser.randrange(len(data) + 1)
        match chooser.randrange(4):
            case 0:
                del data[at:]
            case 1:
                data[at:at] = chooser.choice([b"\0" * 8, b"\xff" * 8, b"\x1b[31m", b"{", b"9" * 5000])
            case _:
                data[at : at + 1] = chooser.choice([b"\0", b"\xff", b"\x80", b"[", b'"'])
        if not data:
            break
    return bytes(data)


def dumped(content) -> bytes:
    return json.dumps(content).encode("utf-8", "surrogatepass")


def works_or_says(read) -> object:
    """What is read, or None after one sentence."""
    try:
        return read()
    except LlmpruneError as error:
        said = str(error)
        assert said.isprintable() and 10 < len(said) < 2_000, said
        return None


choosers = st.integers(0, 2**32).map(random.Random)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def copy(model, tmp_path):
    return Path(shutil.copytree(model, tmp_path / "copy"))


@fuzzed(2)
@given(chooser=choosers)
def test_a_config(chooser, copy, model):
    content = json.loads((model / "config.json").read_text())
    (copy / "config.json").write_bytes(dumped(changed(content, chooser)))
    works_or_says(partial(check_model, copy))


@fuzzed(3)
@given(chooser=choosers)
def test_an_index(chooser, tmp_path):
    names = {f"model.layers.{block}.weight": f"model-{block}.safetensors" for block in range(3)}
    content = dumped(changed({"metadata": {"total_size": 12}, "weight_map": names}, chooser))
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(chooser.choice([content, damaged(content, chooser)]))
    works_or_says(partial(read_weight_map, path))
    works_or_says(partial(open_checkpoint, tmp_path))


@fuzzed(3)
@given(chooser=choosers)
def test_a_header(chooser, tmp_path):
    first = build_header([("a", "F32", (2, 3), 24), ("b", "BF16", (4,), 8)], {"format": "pt"})
    text = dumped(changed(json.loads(first[8:]), chooser))
    whole = chooser.choice([first + bytes(32), len(text).to_bytes(8, "little") + text + bytes(32)])
    path = tmp_path / "model.safetensors"
    path.write_bytes(chooser.choice([whole, damaged(whole, chooser)]))
    works_or_says(partial(read_header, path))
    works_or_says(partial(open_checkpoint, tmp_path))


@fuzzed()
@given(chooser=choosers)
def test_a_mask(chooser, tmp_path, model):
    path = tmp_path / "mask.safetensors"
    names = ["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"]
    write_mask(open_checkpoint(model), names, path, pattern="2:4")
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])
    header["__metadata__"]["shapes"] = json.dumps(changed(json.loads(header["__metadata__"]["shapes"]), chooser))
    text = dumped(chooser.choice([header, changed(header, chooser)]))
    path.write_bytes(chooser.choice([damaged(whole, chooser), len(text).to_bytes(8, "little") + text + whole[end:]]))
    works_or_says(partial(read_mask, path))


RUN = RunRecord(model="/models/tiny", directory="dense", name="tiny", checkpoints=("a", "b"))
RECORDS = {
    "importance": (Importance, made.importance()),
    "scores": (Importance, made.scored()),
    "calibration": (CalibrationManifest, made.calibration()),
    "pruning": (PruningRecord, made.zeroed().record),
    "removal": (PruningRecord, made.removed().record),
    "bench": (BenchResult, made.measurements()[0].result),
    "sweep": (SweepResult, made.sweep()),
    "generations": (Generations, made.generations()),
    "run": (RunRecord, RUN),
}


def fitting(content: object) -> object:
    """With a digest that fits, so that what is fuzzed is read and not only compared."""
    return with_digest(content) if isinstance(content, dict) else content


def written(one) -> dict:
    return json.loads(json.dumps(one.model_dump(mode="json", warnings=False)))


@pytest.mark.parametrize("name", RECORDS)
@fuzzed(2)
@given(chooser=choosers)
def test_an_artifact(name, chooser, tmp_path):
    kind, one = RECORDS[name]
    content = dumped(fitting(changed(written(one), chooser)))
    path = tmp_path / "artifact.json"
    path.write_bytes(chooser.choice([content, content, damaged(content, chooser)]))
    works_or_says(partial(kind.read, path))


@pytest.mark.parametrize("name", ["pruning", "removal"])
@fuzzed(2)
@given(chooser=choosers)
def test_whatever_record_is_read_has_a_card_in_which_its_texts_are_text(name, chooser, tmp_path):
    kind, one = RECORDS[name]
    path = tmp_path / "llmprune.json"
    path.write_bytes(dumped(fitting(changed(written(one), chooser))))
    record = works_or_says(partial(kind.read, path))
    if record is not None:
        card = model_card(CardFacts(record, results=(made.measurements()[0].result,)))
        assert "\x1b" not in card
        assert "<script>" not in card.replace("`<script>`", "").replace("\n<script>\n", "")  # code


@fuzzed()
@given(chooser=choosers, name=st.sampled_from(["importance", "calibration", "bench", "sweep", "generations"]))
def test_whatever_artifact_is_read_has_a_page(chooser, name, tmp_path):
    kind, one = RECORDS[name]
    path = tmp_path / "artifact.json"
    path.write_bytes(dumped(fitting(changed(written(one), chooser))))
    read = works_or_says(partial(kind.read, path))
    if read is None:
        return
    held = {"bench": {"measurements": (Measurement("bench/1.json", read),)}}.get(name, {name: read})
    contents = made.contents(**held)
    sections = report_sections(contents)
    drawn = {chart.name: Drawn("<svg></svg>", "<svg></svg>") for one in sections for chart in one.charts}
    page = render_page(contents, sections, drawn, made="today", version="0")
    assert page.count("<script>") == 1


@fuzzed()
@given(chooser=choosers)
def test_a_tokenizer(chooser, copy, model):
    name = chooser.choice(["tokenizer.json", "tokenizer.json", "tokenizer_config.json"])
    content = json.loads((model / name).read_text())
    if name == "tokenizer.json":
        content["model"]["vocab"] = dict(list(content["model"]["vocab"].items())[-12:])
        content["model"] = chooser.choice([content["model"], *MODELS])
        content["normalizer"] = chooser.choice(NORMALIZERS)
    (copy / name).write_bytes(dumped(changed(content, chooser)))
    tokenizer = works_or_says(partial(load_tokenizer, copy))
    (copy / name).write_bytes((model / name).read_bytes())
    if tokenizer is not None:
        text = Corpus("sea", ("The sea, wide. \u65e5\u672c" * 9,), "", "here")
        works_or_says(lambda: sample_windows(text, tokenizer, num_windows=2, seq_len=4))
        assert len(tokenizer_fingerprint(tokenizer)) == 64


MODELS = [
    {"type": "Unigram", "unk_id": 7, "vocab": [["<unk>", 0.0], ["a", -1.0]], "byte_fallback": True},
    {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"], "unk_token": "zzz"},
    {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "[UNK]", "continuing_subword_prefix": "##"},
]
NORMALIZERS = [
    None,
    {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    {"type": "Replace", "pattern": {"Regex": "(a*)*b"}, "content": "x"},
]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    """The smallest file that is one: some keys, and a tensor."""
    writer = pytest.importorskip("gguf", reason="gguf is not installed (extra 'gguf')").GGUFWriter
    import numpy as np

    path = tmp_path_factory.mktemp("gguf") / "one.gguf"
    file = writer(path, "llama")
    file.add_block_count(1)
    file.add_context_length(64)
    file.add_embedding_length(32)
    file.add_head_count(2)
    file.add_tokenizer_model("gpt2")
    file.add_token_list(["a", "b", "ab"])
    file.add_token_merges(["a b"])
    file.add_tensor("token_embd.weight", np.ones((3, 32), np.float32))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


@fuzzed(0.5)
@given(chooser=choosers)
def test_a_gguf_file(chooser, gguf, tmp_path):
    path = tmp_path / "damaged.gguf"
    whole = gguf.read_bytes()
    number = chooser.choice([3_000_000_000, 2**32 - 1, 10_001]).to_bytes(4, "little")
    deep = whole.replace(b"block_count\x04\0\0\0\x01\0\0\0", b"block_count\x04\0\0\0" + number)
    path.write_bytes(chooser.choice([deep, damaged(whole, chooser)]))
    works_or_says(partial(convert_gguf, path, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


NUMBERS = ["-1", "0", "3000000000", "9" * 4000, "9" * 5000, "1e400", "nan", "\x1b[31m1", "٣", "0x10", "", " ", "1_0"]
LINES = [
    ["remove-blocks", "MODEL", "--blocks", "WORD"],
    ["remove-blocks", "MODEL", "--target", "WORD", "--out", "MODEL"],
    ["remove-blocks", "MODEL", "--max-shard-size", "WORD", "--out", "MODEL"],
    ["remove-experts", "MODEL", "--experts", "WORD"],
    ["verify-redundancy", "MODEL", "--protect-first", "WORD", "--error-rate", "2"],
    ["verify-redundancy", "MODEL", "--error-rate", "WORD", "--chunk-windows", "0"],
    ["global-prune", "MODEL", "--layers", "WORD", "--exclude", "*"],
    ["global-prune", "MODEL", "--sparsity", "WORD", "--exclude", "*"],
    ["global-prune", "MODEL", "--pattern", "WORD", "--exclude", "*"],
    ["global-prune", "MODEL", "--alpha", "WORD", "--samples", "0"],
    ["calibrate", "MODEL", "--samples", "WORD", "--source", "nosuch.txt"],
    ["calibrate", "MODEL", "--seed", "WORD", "--source", "nosuch.txt"],
    ["calibrate", "MODEL", "--seq-len", "WORD", "--source", "nosuch.txt"],
    ["calibrate", "MODEL", "--source", "WORD"],
    ["bench", "MODEL", "--batch", "WORD", "--ppl", "nosuch.txt"],
    ["bench", "MODEL", "--gen", "WORD", "--ppl", "nosuch.txt"],
    ["bench", "MODEL", "--max-seconds", "WORD", "--ppl", "nosuch.txt"],
    ["bench", "MODEL", "--fail-if", "WORD", "--ppl", "nosuch.txt"],
    ["bench", "MODEL", "--fail-if", "ppl>WORD", "--ppl", "nosuch.txt"],
    ["bench", "MODEL", "--device", "WORD"],
    ["sweep", "MODEL", "--targets", "WORD", "--ppl", "nosuch.txt"],
    ["sweep", "MODEL", "--max-params", "WORD", "--targets", "1", "--ppl", "nosuch.txt"],
    ["calibrate", "MODEL", "--dtype", "WORD"],
    ["calibrate", "WORD"],
    ["apply-mask", "MODEL", "WORD"],
    ["report", "WORD"],
    ["push", "WORD", "WORD", "--dry-run"],
    ["WORD"],
    ["bench", "--WORD"],
]


@fuzzed(0.8)
@given(
    line=st.sampled_from(LINES),
    word=st.sampled_from(NUMBERS) | st.sampled_from(["\x1b[31mred", "a\nb", "\u202e", "x" * 300, "\udce9", "~nobody"]),
)
def test_words_of_a_command_line(line, word, model, tmp_path):
    words = [str(model) if part == "MODEL" else part.replace("WORD", word) for part in line]
    run = [] if line[0] in {"WORD", "report"} else ["--run", str(tmp_path / "run")]
    result = CliRunner().invoke(app, [*words, *run], env={"HF_HUB_OFFLINE": "1"})
    assert result.exit_code in {0, 2}, result.output
    assert not any(said in result.output for said in ("Traceback", "Unexpected"))
    assert result.output.replace("\n", "").isprintable(), result.output
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
