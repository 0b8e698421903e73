"""Whatever a user of the source model needs comes along, and what stays behind is said."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.errors import ModelError
from llmprune.models.compute import Compute
from llmprune.publishing.contents import collect
from llmprune.stages.block_removal import RemovalSettings, remove_blocks
from llmprune.stages.common.workspace import open_workspace
from tests.tiny import Listener, save_tiny_llama

NEEDED = (
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "modeling_own.py",
    "parts/attention.py", "parts/kernels/fast.py", "custom_generate/generate.py", "additional_chat_templates/rag.jinja",
    "tekken.json", "sentencepiece.bpe.model", "LICENSE.txt", "words/of_its_own.txt",
)  # fmt: skip
LEFT = ("pytorch_model.bin", "optimizer.pt", "onnx/model.onnx", "words/other.txt", "other/config.json", "other/x.py")
SILENT = (".gitattributes", "__pycache__/x.pyc", "README.md")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = save_tiny_llama(tmp_path / "source")
    for name in (*NEEDED, *LEFT, *SILENT):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("{}", encoding="utf-8")
    settings = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["words_file"] = "words/of_its_own.txt"
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return directory


@pytest.fixture
def remove(source: Path, tmp_path: Path) -> Callable[[Listener], Path]:
    def run(listener: Listener) -> Path:
        compute = Compute(torch.device("cpu"))
        workspace = open_workspace(tmp_path / "run", str(source), compute=compute, progress=listener)
        return remove_blocks(workspace, RemovalSettings(blocks=(3,), verify=False)).directory

    return run


@pytest.fixture
def cut(remove: Callable[[Listener], Path]) -> tuple[Path, Listener]:
    listener = Listener()
    return remove(listener), listener


def test_all_that_is_needed_comes_along_byte_by_byte(source, cut):
    directory, _ = cut
    for name in (*NEEDED, "tokenizer.json", "generation_config.json", "chat_template.jinja"):
        assert (directory / name).read_bytes() == (source / name).read_bytes()
    assert not any((directory / name).exists() for name in (*LEFT, *SILENT[:2]))


def test_what_is_left_behind_is_said(cut):
    _, listener = cut
    assert listener.heard("Left behind in source: onnx, optimizer.pt, other, pytorch_model.bin.")


def test_what_came_along_may_be_published(cut):
    directory, _ = cut
    (directory / "llmprune.json").unlink()
    published = {file.path for file in collect(directory, open_checkpoint(directory).shards)}
    assert {*NEEDED, "config.json", "model.safetensors"} <= published


def test_named_chat_templates_are_the_same(source, remove):
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = {"default": "D", "tool_use": "T"}
    shutil.rmtree(source / "additional_chat_templates")
    tokenizer.save_pretrained(source)
    directory = remove(Listener())
    assert AutoTokenizer.from_pretrained(directory).chat_template == {"default": "D", "tool_use": "T"}


def test_numbers_that_json_does_not_know_are_written_as_they_were_read(source, remove):
    raw = json.loads((source / "config.json").read_text(encoding="utf-8"))
    odd = {"time_step_limit": [0.0, float("inf")], "lowest": float("-inf"), "nested": {"tiny": 1e-300, "big": 10**39}}
    (source / "config.json").write_text(json.dumps({**raw, **odd}), encoding="utf-8")
    directory = remove(Listener())
    text = (directory / "config.json").read_text(encoding="utf-8")
    assert "Infinity" in text
    assert {name: json.loads(text)[name] for name in odd} == odd
    assert AutoModelForCausalLM.from_pretrained(directory).config.lowest == float("-inf")


@pytest.mark.parametrize("name", ["NOTICE", "vocab.txt", "helper.py", "tokenizer.model", "config.json", "words"])
def test_a_link_out_of_the_folder_is_refused_before_anything_is_made(name, source, remove, tmp_path):
    private = tmp_path / "private"
    private.mkdir()
    (private / "diary.py").write_text("My diary.")
    if name == "config.json":
        shutil.move(source / name, private / name)
        (source / name).symlink_to(private / name)
    elif name == "words":
        shutil.rmtree(source / "words")
        (source / "words").symlink_to(private)
    else:
        (source / name).symlink_to(private / "diary.py")
    with pytest.raises(ModelError, match=r"is a link that leads out of .*; put the file itself there"):
        remove(Listener())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["nowhere", "LICENSE.txt"])
def test_a_link_within_the_folder_is_taken_and_one_to_nothing_is_not(place, source, remove):
    (source / "NOTICE").symlink_to(place)
    if place == "nowhere":
        with pytest.raises(ModelError, match="NOTICE is a link that leads out of"):
            remove(Listener())
    else:
        assert (remove(Listener()) / "NOTICE").read_text() == "{}"
        assert not (remove(Listener()) / "NOTICE").is_symlink()


def test_the_blobs_of_the_hubs_cache_are_the_models_own(source, tmp_path):
    cache = tmp_path / "models--ada--model"
    snapshot = cache / "snapshots" / "0123abc"
    (cache / "blobs").mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in source.rglob("*") if path.is_file())):
        shutil.copyfile(path, cache / "blobs" / str(number))
        link = snapshot / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(cache / "blobs" / str(number), link.parent))
    workspace = open_workspace(tmp_path / "of-cache", str(snapshot), compute=Compute(torch.device("cpu")))
    made = remove_blocks(workspace, RemovalSettings(blocks=(3,), verify=False)).directory
    assert (made / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    (snapshot / "NOTICE").symlink_to(source / "LICENSE.txt")
    with pytest.raises(ModelError, match="is a link that leads out of"):
        remove_blocks(workspace, RemovalSettings(blocks=(2,), verify=False))
