import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.errors import CheckpointError


def write_raw(path: Path, header: Any, data: bytes = b"", *, length: int | None = None) -> None:
    """A safetensors file with any header at all; ``length`` overrides what its first 8 bytes say."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def field(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def write_sharded(folder: Path, weight_map: dict[str, str] | None = None) -> None:
    """Tensors a (shard 1), b and c (shard 2), with an index."""
    folder.mkdir(exist_ok=True)
    save_file({"a": torch.arange(6.0).reshape(2, 3)}, folder / "model-00001-of-00002.safetensors")
    second = {"b": torch.ones(4, dtype=torch.bfloat16), "c": torch.tensor(True)}
    save_file(second, folder / "model-00002-of-00002.safetensors")
    usual = dict.fromkeys("bc", "model-00002-of-00002.safetensors") | {"a": "model-00001-of-00002.safetensors"}
    index = {"metadata": {}, "weight_map": usual if weight_map is None else weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def refused(folder: Path, message: str) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(folder)
    assert caught.value.exit_code == 2
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert len(text) < 600
    assert sorted(folder.rglob("*")) == before


def test_a_sharded_checkpoint(tmp_path: Path):
    write_sharded(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert list(checkpoint.tensors) == ["a", "b", "c"]
    assert [shard.name[:11] for shard in checkpoint.shards] == ["model-00001", "model-00002"]
    entry = checkpoint.tensors["b"]
    assert (entry.dtype, entry.shape, entry.nbytes, entry.shard) == ("BF16", (4,), 8, checkpoint.shards[1])
    assert entry.shard.read_bytes()[entry.start : entry.end] == b"\x80\x3f" * 4
    assert (checkpoint.nbytes, checkpoint.num_parameters) == (24 + 8 + 1, 6 + 4 + 1)


def test_loading_some_tensors(tmp_path: Path):
    write_sharded(tmp_path)
    loaded = open_checkpoint(tmp_path).load(["c", "a"])
    assert list(loaded) == ["c", "a"]
    assert torch.equal(loaded["a"], torch.arange(6.0).reshape(2, 3))
    assert loaded["c"].dtype == torch.bool
    assert loaded["c"].shape == ()


def test_loading_what_is_not_there(tmp_path: Path):
    write_sharded(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="has no tensor named 'x'"):
        checkpoint.load(["a", "x"])
    checkpoint.shards[0].unlink()
    with pytest.raises(CheckpointError, match="can no longer be read"):
        checkpoint.load(["a"])
    with pytest.raises(CheckpointError, match="can no longer be read"):
        checkpoint.fingerprint()


def test_the_layout_of_the_hubs_cache(tmp_path: Path):
    """A snapshot is a folder of links to blobs outside it, named by their hash."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    write_sharded(blobs)
    snapshot.mkdir(parents=True)
    for number, blob in enumerate(sorted(blobs.iterdir())):
        (snapshot / blob.name).symlink_to(Path("../../blobs") / f"{number:040x}")
        blob.rename(blobs / f"{number:040x}")
    checkpoint = open_checkpoint(snapshot)
    assert torch.equal(checkpoint.load(["b"])["b"], torch.ones(4, dtype=torch.bfloat16))
    assert checkpoint.shards[0].parent == snapshot


def test_what_the_index_leaves_out_is_taken(tmp_path: Path):
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    write_sharded(tmp_path, names)
    assert list(open_checkpoint(tmp_path).tensors) == ["a", "b", "c"]


def test_no_such_directory(tmp_path: Path):
    refused(tmp_path / "none", "none does not exist; give the directory of a model")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "file is a file, not a directory")


def test_no_weights(tmp_path: Path):
    refused(tmp_path, r"holds no weights: none of model\.safetensors, model\.safetensors\.index\.json, pytorch_model")
    (tmp_path / "adapter_model.safetensors").touch()
    refused(tmp_path, r"holds adapter_model\.safetensors, but none of model\.safetensors")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json"])
def test_only_pickles(tmp_path: Path, name: str):
    (tmp_path / name).touch()
    refused(tmp_path, r"only as pickles; .* was expected: convert them once .*save_pretrained\(NEW\)")


def test_a_shard_of_pickles_without_an_index(tmp_path: Path):
    (tmp_path / "pytorch_model-00001-of-00002.bin").touch()
    refused(tmp_path, r"holds pytorch_model-00001-of-00002\.bin, but none of .*pytorch_model\.bin\.index\.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", r"no valid JSON in .*index\.json; download the file again"),
        (b"", "no valid JSON"),
        (b"\xff\xfe{}", "no valid JSON"),
        (b"[" * 100_000, "no valid JSON"),
        (b"[]", "no JSON object in"),
        (b"{}", "has no weight_map that says which file"),
        (b'{"weight_map": {}}', "has no weight_map"),
        (b'{"weight_map": ["a"]}', "has no weight_map"),
        (b'{"weight_map": {"a": "x.safetensors", "a": "x.safetensors"}}', "the name 'a' comes twice"),
        (b'{"weight_map": {"a": 3}}', r"names 3, which is no \.safetensors file"),
        (
            b'{"weight_map": {"a": "pytorch_model.bin"}}',
            r"names 'pytorch_model.bin', which is no \.safetensors file",
        ),
        (b'{"weight_map": {"a": "x\\u0000.safetensors"}}', r"which is no \.safetensors file"),
        (b'{"weight_map": {"\\ud800": "x.safetensors"}}', "no valid JSON"),
        (
            b'{"weight_map": {"a": "/etc/x.safetensors"}}',
            r"names '/etc/x\.safetensors', a file outside its folder",
        ),
        (b'{"weight_map": {"a": "../x.safetensors"}}', "a file outside its folder"),
        (b'{"weight_map": {"a": "' + 300 * b"x" + b'.safetensors"}}', "longer than a file's name can be"),
        (b'{"weight_map": {"a": "b/../../x.safetensors"}}', "a file outside its folder"),
        (b'{"weight_map": {"a": "..\\\\x.safetensors"}}', "a file outside its folder"),
        (b'{"weight_map": {"a": "C:\\\\x.safetensors"}}', "a file outside its folder"),
        (
            b'{"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}',
            r"x\.safetensors \(and 1 more\), named by",
        ),
    ],
)
def test_a_broken_index(tmp_path: Path, text: bytes, message: str):
    (tmp_path / "model.safetensors.index.json").write_bytes(text)
    refused(tmp_path, message)


def test_a_missing_shard(tmp_path: Path):
    write_sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    refused(tmp_path, r"model-00002-of-00002\.safetensors, named by model.safetensors.index.json, is missing")
    (tmp_path / "model-00002-of-00002.safetensors").symlink_to("nowhere")
    refused(tmp_path, "is missing; download it again")


def test_what_an_index_says_of_single_tensors_is_not_believed(tmp_path: Path):
    write_sharded(tmp_path)
    expected = open_checkpoint(tmp_path)
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    for told in (
        {"a": second, "b": first},
        {"a": first, "b": second, "tied-and-not-stored": first},
        {"a": first, "x": second},
    ):
        write_sharded(tmp_path, told)
        assert open_checkpoint(tmp_path) == expected


def test_a_tensor_in_two_shards(tmp_path: Path):
    write_sharded(tmp_path)
    save_file({"b": torch.ones(4), "a": torch.ones(1)}, tmp_path / "model-00001-of-00002.safetensors")
    refused(tmp_path, r"tensor 'b' is in .*model-00002-of-00002.safetensors and again in model-00001")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is cut off: it has 0 bytes"),
        (b"1234567", "is cut off: it has 7 bytes"),
        (b"\xff" * 16, "is no safetensors file: its header would have 18446744073709551615 bytes"),
        ((10**8 + 1).to_bytes(8, "little") + b"{}", "its header would have 100000001 bytes"),
        (b"\0" * 16, "its header would have 0 bytes"),
        (b"\x10" + b"\0" * 7 + b"{}", "its header ends at byte 24, the file at 10; download it again"),
        (b"\x02" + b"\0" * 7 + b"{]", "no valid JSON in the header of"),
        (b"\x02" + b"\0" * 7 + b"[]", "no JSON object in the header of"),
        (b"\x02" + b"\0" * 7 + b"\xff\xff", "no valid JSON in the header of"),
        (b"\x02" + b"\0" * 7 + b"{}", "holds no tensors"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
            "is a Git LFS pointer.*git lfs pull",
        ),
    ],
)
def test_a_broken_file(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "model.safetensors").write_bytes(content)
    refused(tmp_path, message)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"w": field(), "__metadata__": 3}, "its __metadata__ is not a JSON object"),
        ({"w": 3}, "tensor 'w' has no dtype, shape and data_offsets"),
        ({"w": {"dtype": "F32"}}, "tensor 'w' has no dtype, shape and data_offsets"),
        ({"w": field(dtype="F33")}, "tensor 'w' has the dtype 'F33', which safetensors does not know"),
        ({"w": field(dtype=["F32"])}, "has the dtype"),
        ({"w": field(shape=[-2])}, r"has the shape \[-2\], which is not a list of counts"),
        ({"w": field(shape=[True, 2])}, "has the shape"),
        ({"w": field(shape=[2.0])}, "has the shape"),
        ({"w": field(shape="ab")}, "has the shape"),
        ({"w": field(offsets=[0])}, r"has the offsets \[0\], which are not two positions"),
        ({"w": field(offsets=[-8, 0])}, "has the offsets"),
        ({"w": field(offsets=[0, None])}, "has the offsets"),
        ({"w": field(shape=[3])}, r"has 8 bytes, but F32 \(3,\) takes 12"),
        ({"w": field(dtype="F4", shape=[3])}, r"has 8 bytes, but F4 \(3,\) takes 2"),
        ({"w": field(offsets=[8, 0])}, "has -8 bytes, but"),
        ({"w": field(shape=[2**62, 2**62])}, "has 8 bytes, but F32"),
        ({"w": field(shape=[1], offsets=[4, 8])}, "tensor 'w' leaves a hole before it"),
        ({"v": field(), "w": field(shape=[1], offsets=[4, 8])}, "tensor 'w' overlaps the tensor before it"),
        ({"v": field(), "w": field(offsets=[8, 16])}, "is cut off: its tensors end at byte .* the file at"),
        ({"w": field(shape=[1], offsets=[0, 4])}, "has 4 bytes more than its header says"),
        (b'{"w": {}, "w": {}}', "the name 'w' comes twice"),
        (b'{"\\udc80": {}}', "no valid JSON"),
        (b'{"w": ' + b"9" * 5000 + b"}", "no valid JSON"),
    ],
)
def test_a_broken_header(tmp_path: Path, header: object, message: str):
    write_raw(tmp_path / "model.safetensors", header, bytes(8))
    refused(tmp_path, message)


def test_every_truncation_of_a_good_file_is_refused(tmp_path: Path):
    save_file({"w": torch.ones(5), "v": torch.ones(2, 3)}, tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    for size in range(len(content)):
        (tmp_path / "model.safetensors").write_bytes(content[:size])
        with pytest.raises(CheckpointError, match="cut off"):
            open_checkpoint(tmp_path)


def test_an_unreadable_index(tmp_path: Path):
    (tmp_path / "model.safetensors.index.json").mkdir()
    refused(tmp_path, r"index\.json cannot be read: Is a directory")


def test_a_pipe_does_not_hang(tmp_path: Path):
    os.mkfifo(tmp_path / "model.safetensors")
    refused(tmp_path, r"model\.safetensors is missing")


def save(folder: Path, tensors: dict[str, torch.Tensor]) -> str:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return open_checkpoint(folder).fingerprint()


def test_fingerprint_ignores_sharding_and_order(tmp_path: Path):
    write_sharded(tmp_path / "sharded")
    sharded = open_checkpoint(tmp_path / "sharded")
    assert save(tmp_path / "single", sharded.load(["c", "b", "a"])) == sharded.fingerprint()


def test_fingerprint_sees_names_dtypes_shapes_and_values(tmp_path: Path):
    large = torch.arange(100_000, dtype=torch.float32)
    variants = {
        "plain": {"a": large, "b": torch.zeros(4)},
        "name": {"a": large, "c": torch.zeros(4)},
        "dtype": {"a": large, "b": torch.zeros(4, dtype=torch.int32)},
        "shape": {"a": large, "b": torch.zeros(2, 2)},
        "small value": {"a": large, "b": torch.tensor([0, 0, 0, 1.0])},
        "first value": {"a": large.clone().index_fill(0, torch.tensor(0), 7), "b": torch.zeros(4)},
        "last value": {"a": large.clone().index_fill(0, torch.tensor(99_999), 7), "b": torch.zeros(4)},
        "all values": {"a": large + 1, "b": torch.zeros(4)},
    }
    prints = {name: save(tmp_path / name, tensors) for name, tensors in variants.items()}
    assert len(set(prints.values())) == len(variants)
    # Documented limit: an edit between the sampled pages of a large tensor is not seen.
    between = large.clone()
    between[4096 // 4 + 1] = 7
    assert save(tmp_path / "between", variants["plain"] | {"a": between}) == prints["plain"]
