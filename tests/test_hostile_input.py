"""Every reader of a model, on files that nobody wrote in earnest: it works, or one sentence says what is wrong."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given

from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint, read_weight_map
from llmprune.artifacts.checkpoints.header import build_header, read_header
from llmprune.artifacts.masks.mask import read_mask, write_mask
from llmprune.models.gguf import convert_gguf
from llmprune.models.loading import load_tokenizer
from llmprune.models.source import check_model
from llmprune.text.corpora import Corpus
from llmprune.text.tokenizer_identity import tokenizer_fingerprint
from llmprune.text.windows import sample_windows
from tests.hostile import changed, choosers, damaged, dumped, fuzzed, works_or_says
from tests.tiny import save_tiny_llama
from tests.tiny_gguf import save_tiny_gguf


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


@pytest.mark.filterwarnings("ignore::llmprune.artifacts.records.unchecked.UncheckedWarning")  # its digest is gone
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
    return save_tiny_gguf(tmp_path_factory.mktemp("gguf") / "one.gguf")


@fuzzed(0.5)
@given(chooser=choosers)
def test_a_gguf_file(chooser, gguf, tmp_path):
    path = tmp_path / "damaged.gguf"
    whole = gguf.read_bytes()
    number = chooser.choice([3_000_000_000, 2**32 - 1, 10_001]).to_bytes(4, "little")
    deep = whole.replace(b"block_count\x04\0\0\0\x01\0\0\0", b"block_count\x04\0\0\0" + number)
    wide = whole.replace(b"embedding_length\x04\0\0\0\x20\0\0\0", b"embedding_length\x04\0\0\0" + number)
    assert whole not in (deep, wide)
    path.write_bytes(chooser.choice([deep, wide, damaged(whole, chooser)]))
    works_or_says(partial(convert_gguf, path, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
