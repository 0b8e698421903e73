import torch
from safetensors.torch import save_file

from llmprune.artifacts.checkpoints.scanning import digest_weights
from llmprune.artifacts.files.digests import FileDigest
from tests.checkpoints import save_shards


def test_digests_are_those_of_the_files_whatever_pieces_they_are_read_in(tmp_path, monkeypatch):
    monkeypatch.setattr("llmprune.artifacts.checkpoints.scanning.PIECE", 1000)
    tensors = {"a": torch.randn(700), "empty": torch.zeros(0), "b": torch.randn(300, 2), "c": torch.ones(1)}
    checkpoint = save_shards(tmp_path, tensors, max_shard_bytes=3000)
    assert len(checkpoint.shards) > 1
    assert digest_weights(checkpoint) == {shard.name: FileDigest.of_file(shard) for shard in checkpoint.shards}


def test_a_file_without_tensors_is_digested_too(tmp_path):
    empty = tmp_path / "model-empty.safetensors"
    save_file({}, empty)
    checkpoint = save_shards(tmp_path, {"a": torch.ones(3)}).replaced([empty])
    assert digest_weights(checkpoint) == {shard.name: FileDigest.of_file(shard) for shard in checkpoint.shards}
    assert empty in checkpoint.shards
