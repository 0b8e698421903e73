"""Pickled weights: every tensor as torch has it, and nothing but tensors."""

import json
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from llmprune.artifacts.checkpoints.checkpoint import (
    INDEX_NAME,
    PICKLED_INDEX_NAME,
    PICKLED_NAME,
    SINGLE_NAME,
    has_only_pickles,
)
from llmprune.artifacts.checkpoints.pickles import fill_in, lay_out, open_pickles
from llmprune.errors import CheckpointError, LlmpruneError
from tests.pickled import Code

LEFT, RIGHT = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
GRID = torch.arange(24.0).reshape(4, 6)
TENSORS = {
    "float64": GRID.double() / 7,
    "float16": (GRID / 7).half(),
    "bfloat16": (GRID / 7).bfloat16(),
    "float8": (GRID / 7).to(torch.float8_e4m3fn),
    "integers": torch.tensor([[-3, 2**40]]),
    "bytes": torch.arange(3, dtype=torch.uint8),
    "mask": GRID > 7,
    "scalar": torch.tensor(-1e9),
    "empty": torch.empty(0, 5),
    "transposed": GRID.T,
    "every other row": GRID[::2, 1:4],
    "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
    "parameter": nn.Parameter(GRID + 0.5),
    "negated lazily": torch.complex(GRID, GRID).conj().imag,
}


def save_two(folder: Path, left: dict, right: dict) -> None:
    torch.save(left, folder / LEFT)
    torch.save(right, folder / RIGHT)
    weight_map = {**dict.fromkeys(left, LEFT), **dict.fromkeys(right, RIGHT)}
    (folder / PICKLED_INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def converted(source: Path, output: Path, *, left_out: frozenset[str] = frozenset()) -> dict[str, Tensor]:
    output.mkdir()
    pickles = open_pickles(source)
    checkpoint = lay_out(pickles, output, left_out=left_out)
    fill_in(pickles, checkpoint)
    return checkpoint.load(checkpoint.tensors)


@pytest.mark.parametrize("zipped", [True, False], ids=["format of 2020", "format before it"])
def test_every_tensor_keeps_its_values_shape_and_dtype(tmp_path, zipped):
    tensors = {name: tensor for name, tensor in TENSORS.items() if zipped or name != "float8"}  # younger than the other
    torch.save(OrderedDict(tensors), tmp_path / PICKLED_NAME, _use_new_zipfile_serialization=zipped)
    found = converted(tmp_path, tmp_path / "new")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name].double(), tensor.detach().double())


def test_a_state_dict_with_its_metadata(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    torch.save(model.state_dict(), tmp_path / PICKLED_NAME)
    found = converted(tmp_path, tmp_path / "new")
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_a_compressed_archive_is_read_as_what_it_holds(tmp_path):
    torch.save(TENSORS, tmp_path / "stored.bin")
    with (
        zipfile.ZipFile(tmp_path / "stored.bin") as stored,
        zipfile.ZipFile(tmp_path / PICKLED_NAME, "w", zipfile.ZIP_DEFLATED) as compressed,
    ):
        for name in stored.namelist():
            compressed.writestr(name, stored.read(name))
    found = converted(tmp_path, tmp_path / "new")
    assert torch.equal(found["transposed"], TENSORS["transposed"])


def test_a_file_that_would_fill_the_memory_is_refused_before_it_is_unpacked(tmp_path):
    torch.save({"a": torch.zeros(1, 1)}, tmp_path / "stored.bin")
    with (
        zipfile.ZipFile(tmp_path / "stored.bin") as stored,
        zipfile.ZipFile(tmp_path / PICKLED_NAME, "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in stored.namelist():
            bomb.writestr(name, stored.read(name) if "/data/" not in name else bytes(1 << 24))
    refused(tmp_path, r"has [\d,]+ bytes and would unpack to 16,777,\d+, which weights do not")


def test_a_tensor_that_repeats_a_few_stored_numbers_is_refused_where_it_is_large(tmp_path):
    torch.save({"a": torch.zeros(1).expand(1 << 19, 1 << 20)}, tmp_path / PICKLED_NAME)
    refused(tmp_path, r"says that its 'a' has 2,199,023,255,552 bytes, but stores 4; save it as tensor\.contiguous")


def test_a_file_for_every_pickle(tmp_path):
    save_two(tmp_path, {"b": GRID, "odd": torch.tensor([1, 2, 3], dtype=torch.uint8)}, {"a": GRID.half()})
    found = converted(tmp_path, tmp_path / "new")
    assert torch.equal(found["b"], GRID) and torch.equal(found["a"], GRID.half())
    index = json.loads((tmp_path / "new" / INDEX_NAME).read_text())
    assert index["metadata"] == {"total_parameters": 51, "total_size": 24 * 4 + 3 + 24 * 2}
    assert index["weight_map"]["a"] != index["weight_map"]["b"] == index["weight_map"]["odd"]
    by_other_software = load_file(tmp_path / "new" / index["weight_map"]["b"])
    assert torch.equal(by_other_software["odd"], torch.tensor([1, 2, 3], dtype=torch.uint8))


def test_what_is_stored_once_under_several_names_is_known(tmp_path):
    other = GRID.clone()
    save_two(
        tmp_path,
        {"embedding": GRID, "head": GRID, "view": GRID[:2], "copy": other, "nothing": torch.empty(0)},
        {"again": GRID, "no more": torch.empty(0)},
    )
    pickles = open_pickles(tmp_path)
    assert pickles.shared == [{"embedding", "head"}]
    assert pickles.names == ("embedding", "head", "view", "copy", "nothing", "again", "no more")


def test_what_is_left_out_gets_no_place_and_a_file_of_nothing_else_is_not_made(tmp_path):
    save_two(tmp_path, {"embedding": GRID}, {"head": GRID})
    found = converted(tmp_path, tmp_path / "new", left_out=frozenset({"head"}))
    assert found.keys() == {"embedding"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == [SINGLE_NAME]


def test_safetensors_come_first_as_in_transformers(tmp_path):
    torch.save({"a": GRID}, tmp_path / PICKLED_NAME)
    assert has_only_pickles(tmp_path)
    (tmp_path / INDEX_NAME).touch()
    assert not has_only_pickles(tmp_path)


def refused(folder: Path, words: str) -> None:
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(CheckpointError, match=words):
        open_pickles(folder)
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_not_run(tmp_path, zipped):
    content = {"a": GRID, "b": Code(tmp_path / "ran")}
    torch.save(content, tmp_path / PICKLED_NAME, _use_new_zipfile_serialization=zipped)
    refused(tmp_path, r"pytorch_model\.bin needs posix\.system, more than tensors: it could run code, and is not read")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": GRID, "args": Namespace(x=1)}, r"needs argparse\.Namespace, more than tensors"),
        (nn.Linear(2, 2), r"needs torch\.nn\.modules\.linear\.Linear, more than tensors"),
        ({"model": {"a": GRID}}, r"needs more than plain tensors: its 'model' is a dict; get the file of the weights"),
        ({"a": GRID, "step": 3}, "its 'step' is a int"),
        ({"a": torch.eye(3).to_sparse()}, "its 'a' is a sparse_coo tensor of float32 on the device cpu"),
        ({"a": torch.empty(3, device="meta")}, "its 'a' is a tensor of float32 on the device meta"),
        ({"a": torch.ones(3, dtype=torch.complex64)}, "its 'a' is a tensor of complex64"),
        ([GRID], "holds a list; tensors by their names were expected"),
        ({3: GRID}, "something called 3; a tensor's name was expected"),
        ({"__metadata__": GRID}, "something called '__metadata__'"),
        ({"\ud800": GRID}, "something called"),
        ({}, "holds no tensors"),
    ],
)
def test_anything_but_plain_tensors_is_refused(tmp_path, content, words):
    torch.save(content, tmp_path / PICKLED_NAME)
    refused(tmp_path, words)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("end", [-1, -100, 200, 60, 2, 0])
def test_a_file_that_is_cut_off_is_refused(tmp_path, zipped, end):
    torch.save({"a": GRID}, tmp_path / "whole.bin", _use_new_zipfile_serialization=zipped)
    (tmp_path / PICKLED_NAME).write_bytes((tmp_path / "whole.bin").read_bytes()[:end])
    refused(tmp_path, r"pytorch_model\.bin is cut off, or no file of tensors that torch\.save wrote; download it again")


def test_other_files_are_refused(tmp_path):
    (tmp_path / PICKLED_NAME).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0")
    refused(tmp_path, "is a Git LFS pointer")
    with zipfile.ZipFile(tmp_path / PICKLED_NAME, "w") as archive:
        archive.writestr("archive/constants.pkl", b"")  # by which torch knows TorchScript
    refused(tmp_path, "no file of tensors that torch.save wrote")
    (tmp_path / PICKLED_NAME).unlink()
    (tmp_path / PICKLED_NAME).mkdir()
    refused(tmp_path, r"pytorch_model\.bin is missing")


def test_a_broken_index_or_set_of_shards_is_refused(tmp_path):
    save_two(tmp_path, {"a": GRID}, {"b": GRID})
    (tmp_path / LEFT).rename(tmp_path / "other.bin")
    refused(tmp_path, rf"{LEFT}, named by {PICKLED_INDEX_NAME}, is missing; download it again")
    save_two(tmp_path, {"a": GRID}, {"a": GRID, "b": GRID})
    (tmp_path / PICKLED_INDEX_NAME).write_text(json.dumps({"weight_map": {"a": LEFT, "b": RIGHT}}))
    refused(tmp_path, f"The tensor 'a' is in .*{RIGHT} and again in {LEFT}")
    for name in ("../x.bin", "/x.bin"):
        (tmp_path / PICKLED_INDEX_NAME).write_text(json.dumps({"weight_map": {"a": name}}))
        refused(tmp_path, "a file outside its folder")
    (tmp_path / PICKLED_INDEX_NAME).write_text(json.dumps({"weight_map": {"a": "x.safetensors"}}))
    refused(tmp_path, r"names 'x\.safetensors', which is no \.bin file")


def test_a_pickle_that_becomes_another_meanwhile_is_noticed(tmp_path):
    torch.save({"a": GRID}, tmp_path / PICKLED_NAME)
    pickles = open_pickles(tmp_path)
    (tmp_path / "new").mkdir()
    checkpoint = lay_out(pickles, tmp_path / "new", left_out=())
    (tmp_path / PICKLED_NAME).write_bytes(b"")
    with pytest.raises(CheckpointError, match="is cut off"):
        fill_in(pickles, checkpoint)


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    torch.save({"a": GRID}, tmp_path / PICKLED_NAME)
    monkeypatch.setattr("shutil.disk_usage", lambda path: Namespace(free=95))
    (tmp_path / "new").mkdir()
    with pytest.raises(LlmpruneError, match="96 bytes needed, 95 bytes left"):
        lay_out(open_pickles(tmp_path), tmp_path / "new", left_out=())
    assert list((tmp_path / "new").iterdir()) == []
