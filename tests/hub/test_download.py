"""Of a Hub model only those files are downloaded that are needed; what is missing later is fetched later."""

import json
import shutil
from dataclasses import dataclass

import pytest
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from llmprune.artifacts.checkpoints.checkpoint import INDEX_NAME, has_only_pickles, open_checkpoint
from llmprune.artifacts.records.pruning import RECORD_NAME, PruningRecord
from llmprune.cli.app import app
from llmprune.errors import CheckpointError, ModelError
from llmprune.models.hub_download import absent_shards, download_model, lacks_shards
from tests.hub.server import Hub
from tests.hub.store import Repository
from tests.pickled import pickle_weights
from tests.tiny import save_tiny_llama

REPO = "someone/tiny"
BESIDE = {
    "README.md", "LICENSE", "config.json", "generation_config.json", "chat_template.jinja", "tokenizer.json",
    "tokenizer_config.json", "additional_chat_templates/tool_use.jinja", "parts/helper.py",
}  # fmt: skip
UNWANTED = (
    "pytorch_model.bin",
    "model.gguf",
    "consolidated.safetensors",
    "tf_model.h5",
    "onnx/model.onnx",
    "onnx/config.json",
)


def add_what_repositories_have(folder):
    for name in (*UNWANTED, "README.md", "LICENSE", "additional_chat_templates/tool_use.jinja", "parts/helper.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return add_what_repositories_have(save_tiny_llama(tmp_path_factory.mktemp("hub") / "single", num_blocks=4))


@pytest.fixture(scope="module")
def sharded(single, tmp_path_factory):
    """The same model, every block in two shards of its own."""
    folder = save_tiny_llama(tmp_path_factory.mktemp("hub") / "sharded", num_blocks=4)
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(single).save_pretrained(folder, max_shard_size="20KB")
    return add_what_repositories_have(folder)


@dataclass(frozen=True)
class Served:
    """A Hub with one repository, and its newest commit."""

    hub: Hub
    commit: str

    @property
    def downloaded(self):
        """The files that were fetched, in order."""
        return self.hub.downloaded(REPO)


@pytest.fixture
def serve(hub):
    """Make a folder the repository that the client finds."""

    def start(folder):
        files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        hub.repositories[REPO] = Repository(owner="someone")
        return Served(hub, hub.repositories[REPO].add(files))

    return start


def shards_of(folder, *, blocks=None):
    """All shards, or those with anything else than a block that is not among ``blocks``."""
    weight_map = json.loads((folder / INDEX_NAME).read_text())["weight_map"]
    return {
        shard
        for name, shard in weight_map.items()
        if blocks is None or ".layers." not in name or int(name.split(".layers.")[1].split(".")[0]) in blocks
    }


def test_neither_other_formats_nor_other_weights_are_fetched(single, serve):
    running = serve(single)
    directory = download_model(REPO, None)
    assert sorted(running.downloaded) == sorted(BESIDE | {"model.safetensors"})
    assert directory.name == running.commit
    assert open_checkpoint(directory).fingerprint() == open_checkpoint(single).fingerprint()
    download_model(REPO, None)
    assert len(running.downloaded) == len(BESIDE) + 1  # nothing twice


def test_where_nothing_may_be_downloaded_the_cache_must_have_it(single, serve):
    running = serve(single)
    with pytest.raises(ModelError, match=r"a plan downloads nothing; type: hf download someone/tiny"):
        download_model(REPO, None, download=False)
    assert running.downloaded == []
    assert download_model(REPO, None) == download_model(REPO, None, download=False)


def test_all_shards_are_fetched_when_all_blocks_are_needed(sharded, serve):
    running = serve(sharded)
    directory = download_model(REPO, "main")
    assert sorted(running.downloaded) == sorted(BESIDE | {INDEX_NAME} | shards_of(sharded))
    assert not lacks_shards(directory, ())


@pytest.fixture(scope="module")
def pickled(single, tmp_path_factory):
    """The same model as repositories from before 2023 have it: pickles, and the same in other formats."""
    folder = tmp_path_factory.mktemp("hub") / "pickled"
    shutil.copytree(single, folder, ignore=shutil.ignore_patterns("pytorch_model.bin"))
    return pickle_weights(folder, load_file(single / "model.safetensors"), num_shards=3)


def pickles_of(folder):
    return {path.name for path in folder.glob("pytorch_model*")}


def test_pickles_are_fetched_where_there_are_no_safetensors(pickled, serve):
    running = serve(pickled)
    directory = download_model(REPO, None)
    assert len(pickles_of(pickled)) == 4
    assert sorted(running.downloaded) == sorted(BESIDE | pickles_of(pickled))
    assert has_only_pickles(directory)


def test_one_pickle_is_fetched_where_no_index_names_any(single, pickled, serve, tmp_path):
    shutil.copytree(pickled, tmp_path / "one")
    for name in pickles_of(pickled):
        (tmp_path / "one" / name).unlink()
    running = serve(pickle_weights(tmp_path / "one", load_file(single / "model.safetensors")))
    download_model(REPO, None)
    assert sorted(running.downloaded) == sorted(BESIDE | {"pytorch_model.bin"})


def test_a_pickled_hub_model_is_converted_in_every_run_and_fetched_once(pickled, single, serve, tmp_path, monkeypatch):
    running = serve(pickled)
    assert remove(REPO, tmp_path, "--blocks", "1,2", "--out", str(tmp_path / "first")).exit_code == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert remove(REPO, tmp_path, "--blocks", "3").exit_code == 0  # in the same run
    second = ["--run", str(tmp_path / "second"), "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, ["remove-blocks", REPO, "--blocks", "1,2", *second]).exit_code == 0
    assert sorted(running.downloaded) == sorted(BESIDE | pickles_of(pickled))
    assert remove(single, tmp_path / "local", "--blocks", "1,2", "--out", str(tmp_path / "o")).exit_code == 0
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "o"))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(weight) for name, weight in theirs.items())
    assert PruningRecord.read(tmp_path / "out" / RECORD_NAME).source.name == REPO
    assert (tmp_path / "out" / "LICENSE").is_file()


def remove(model, tmp_path, *words):
    run = ["--run", str(tmp_path / "run"), "--json"]
    return CliRunner().invoke(app, ["remove-blocks", str(model), *words, *run])


def test_removing_blocks_by_hand_fetches_only_shards_with_kept_tensors(sharded, single, serve, tmp_path):
    running = serve(sharded)
    result = remove(REPO, tmp_path, "--blocks", "1,2", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.stderr
    needed = shards_of(sharded, blocks={0, 3})
    assert len(needed) < len(shards_of(sharded))
    assert sorted(running.downloaded) == sorted(BESIDE | {INDEX_NAME} | needed)
    local = CliRunner().invoke(
        app,
        ["remove-blocks", str(single), "--blocks", "1,2", "--run", str(tmp_path / "r"), "--out", str(tmp_path / "o")],
    )
    assert local.exit_code == 0, local.stderr
    ours, theirs = load_file(tmp_path / "out" / "model.safetensors"), load_file(tmp_path / "o" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(weight) for name, weight in theirs.items())
    record, whole = (PruningRecord.read(tmp_path / name / RECORD_NAME) for name in ("out", "o"))
    assert record.source.name == REPO
    assert record.source.num_parameters == whole.source.num_parameters
    assert record.num_parameters == whole.num_parameters
    assert record.verification is not None
    assert (tmp_path / "out" / "LICENSE").is_file()


def test_the_same_command_again_fetches_nothing_and_keeps_what_is_there(sharded, serve, tmp_path):
    running = serve(sharded)
    assert remove(REPO, tmp_path, "--blocks", "1,2").exit_code == 0
    before = len(running.downloaded)
    again = remove(REPO, tmp_path, "--blocks", "1,2")
    assert again.exit_code == 0
    assert "is complete already" in again.stderr
    assert len(running.downloaded) == before


def test_a_later_command_fetches_the_rest(sharded, serve, tmp_path):
    running = serve(sharded)
    assert remove(REPO, tmp_path, "--blocks", "1,2").exit_code == 0
    assert remove(REPO, tmp_path, "--blocks", "3").exit_code == 0
    needed = shards_of(sharded, blocks={0, 1, 2, 3})
    assert sorted(running.downloaded) == sorted(BESIDE | {INDEX_NAME} | needed)


def test_the_first_block_is_always_fetched_since_it_is_tried(sharded, serve, tmp_path):
    running = serve(sharded)
    result = remove(REPO, tmp_path, "--blocks", "0,2")
    assert result.exit_code == 0, result.stderr
    assert shards_of(sharded, blocks={0, 1, 3}) <= set(running.downloaded)


def test_offline_the_cache_is_enough_for_what_was_fetched_and_no_more(sharded, serve, tmp_path, monkeypatch):
    serve(sharded)
    assert remove(REPO, tmp_path, "--blocks", "1,2").exit_code == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert remove(REPO, tmp_path, "--blocks", "1,2", "--out", str(tmp_path / "other")).exit_code == 0
    refused = remove(REPO, tmp_path, "--blocks", "3")
    assert refused.exit_code == 2
    assert "not, or not whole, in the Hub's cache, and HF_HUB_OFFLINE is set" in refused.stderr


def test_a_directory_that_lacks_a_shard_is_refused_whatever_is_removed(sharded, tmp_path):
    mine = shutil.copytree(sharded, tmp_path / "mine")
    gone = min(shards_of(sharded) - shards_of(sharded, blocks={0, 2, 3}))
    (mine / gone).unlink()
    result = remove(mine, tmp_path, "--blocks", "1")
    assert result.exit_code == 2
    assert f"{gone}, named by {INDEX_NAME}, is missing" in result.stderr


def test_what_was_left_out_is_named_and_cannot_be_read(sharded, tmp_path):
    mine = shutil.copytree(sharded, tmp_path / "mine")
    gone = shards_of(sharded) - shards_of(sharded, blocks={0, 2, 3})
    for name in gone:
        (mine / name).unlink()
    assert absent_shards(mine, [1]) == gone
    assert absent_shards(mine, []) == absent_shards(mine, [2]) == absent_shards(sharded, [1]) == frozenset()
    partial, whole = open_checkpoint(mine, left_out=gone), open_checkpoint(sharded)
    assert set(partial.names) == set(whole.tensors)
    assert partial.elsewhere == {name for name, entry in whole.tensors.items() if entry.shard.name in gone}
    assert partial.fingerprint() != whole.fingerprint()
    with pytest.raises(CheckpointError, match=r"does not hold the shard with 'model\.layers\.1\."):
        partial.load([min(partial.elsewhere)])
