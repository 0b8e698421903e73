"""Checkpoints of which newer files hold some tensors, and what is told of their weights."""

import json

import pytest
import torch
from safetensors.torch import save_file

from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint, sample_tensors
from llmprune.artifacts.checkpoints.header import read_metadata
from llmprune.artifacts.checkpoints.zeros import iter_zeros
from llmprune.artifacts.files.ranges import open_shards
from llmprune.errors import CheckpointError
from tests.checkpoints import save_shards

LARGE = torch.arange(40_000, dtype=torch.float32)  # of which 16 pages are looked at


def test_newer_files_hold_what_they_hold_and_the_order_stays(tmp_path):
    old = save_shards(tmp_path / "old", {"a": torch.zeros(2), "b": torch.ones(3), "c": torch.ones(1)})
    newer = tmp_path / "newer.safetensors"
    save_file({"c": torch.full((1,), 5.0), "a": torch.full((2,), 7.0)}, newer)
    found = old.overlaid([newer])
    assert list(found.tensors) == list(old.tensors) and found.shards == (*old.shards, newer)
    assert {name: tensor.tolist() for name, tensor in found.load("abc").items()} == {
        "a": [7.0, 7.0],
        "b": [1.0, 1.0, 1.0],
        "c": [5.0],
    }
    assert old.load("a")["a"].tolist() == [0.0, 0.0]
    save_file({"a": torch.zeros(4)}, newer)
    with pytest.raises(CheckpointError, match=r"newer\.safetensors holds 'a' in another shape than .*old"):
        old.overlaid([newer])
    assert old.replaced([newer]).entry("a").shape == (4,)
    save_file({"d": torch.zeros(2)}, newer)
    with pytest.raises(CheckpointError, match="no tensor named 'd'"):
        old.overlaid([newer])


def test_samples_tell_in_which_tensors_two_checkpoints_differ(tmp_path):
    tensors = {"a": torch.ones(3), "large": LARGE, "same": torch.zeros(2)}
    changed = {**tensors, "a": torch.ones(3, dtype=torch.float16), "large": LARGE + 1}
    first, second = (
        sample_tensors(save_shards(tmp_path / name, some)) for name, some in (("1", tensors), ("2", changed))
    )
    assert all(len(sample) == 8 and int(sample, 16) >= 0 for sample in first.values())
    assert [name for name in first if first[name] != second[name]] == ["a", "large"]
    between = LARGE.clone()
    between[4096 // 4 + 1] = 7  # behind the first page
    assert sample_tensors(save_shards(tmp_path / "3", {**tensors, "large": between})) == first


def test_a_shard_that_is_left_out_changes_the_fingerprint_by_the_names_of_its_tensors(tmp_path):
    prints = []
    for name in ("b", "c"):
        whole = save_shards(tmp_path / name, {"a": torch.ones(3), name: torch.ones(3)}, max_shard_bytes=12)
        first, second = (shard.name for shard in whole.shards)
        partly = open_checkpoint(tmp_path / name, left_out=[second])
        assert list(partly.tensors) == ["a"] and partly.elsewhere == {name}
        prints += [whole.fingerprint(), partly.fingerprint()]
        index = json.loads((tmp_path / name / "model.safetensors.index.json").read_text())
        assert index["weight_map"] == {"a": first, name: second}
    assert len(set(prints)) == 4


def test_metadata_is_text(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.ones(1)}, path, {"format": "pt"})
    assert read_metadata(path) == {"format": "pt"}
    header = json.dumps({"__metadata__": {"format": 3}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="'format' in its __metadata__ is no text; download the file again"):
        read_metadata(path)


def test_zeros_of_8_bit_floats_are_not_counted(tmp_path):
    checkpoint = save_shards(tmp_path, {"a": torch.ones(3).to(torch.float8_e4m3fn)})
    with (
        open_shards(checkpoint.shards) as files,
        pytest.raises(CheckpointError, match="zeros of 'a' cannot be counted: it is stored as F8_E4M3"),
    ):
        list(iter_zeros(files[checkpoint.shards[0]], checkpoint.entry("a")))
