import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from llmprune.artifacts.checkpoints import shard_writer
from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.artifacts.checkpoints.copying import copy_tensors
from llmprune.artifacts.checkpoints.shard_writer import ShardWriter
from llmprune.errors import LlmpruneError, OutputExistsError

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    *(
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint64,
        torch.uint32,
        torch.uint16,
        torch.uint8,
    ),
    torch.bool,
]
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")
SHAPES = st.lists(st.integers(0, 5), max_size=4)


def random_tensor(shape: list[int], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    nbytes = torch.Size(shape).numel() * dtype.itemsize
    raw = torch.randint(0, 2 if dtype is torch.bool else 256, (nbytes,), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).reshape(shape)


TENSORS = st.dictionaries(
    NAMES,
    st.builds(random_tensor, SHAPES, st.sampled_from(DTYPES), st.integers(0, 2**32)),
    min_size=1,
    max_size=8,
)


def raw(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    return tensor.dtype, tensor.shape, tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def read_with_safetensors(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors


def write(folder: Path, tensors: dict[str, Tensor], max_shard_bytes: int) -> ShardWriter:
    with ShardWriter(folder, max_shard_bytes=max_shard_bytes) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor)
    return writer


def assert_same(folder: Path, expected: dict[str, Tensor]) -> None:
    """safe_open, our reader and the index agree on the bytes of every tensor."""
    mine = open_checkpoint(folder)
    assert set(mine.tensors) == set(expected)
    for name, entry in mine.tensors.items():
        assert entry.start % expected[name].dtype.itemsize == 0
    for found in (read_with_safetensors(folder), mine.load(expected)):
        assert {name: raw(tensor) for name, tensor in found.items()} == {
            name: raw(tensor) for name, tensor in expected.items()
        }
    index = folder / "model.safetensors.index.json"
    assert index.exists() == (len(mine.shards) > 1)
    if index.exists():
        parsed = json.loads(index.read_text())
        assert parsed["metadata"] == {"total_parameters": mine.num_parameters, "total_size": mine.nbytes}
        assert parsed["weight_map"] == {name: entry.shard.name for name, entry in mine.tensors.items()}


@given(tensors=TENSORS, first=st.integers(1, 2000), second=st.integers(1, 2000))
@settings(max_examples=60, deadline=None)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, tensors, first: int, second: int):
    """Written by tensor, read back, then copied as bytes under other names into other shards."""
    written, copied = tmp_path_factory.mktemp("written"), tmp_path_factory.mktemp("copied")
    writer = write(written, tensors, first)
    assert_same(written, tensors)
    source = open_checkpoint(written)
    assert (writer.nbytes, writer.num_parameters) == (source.nbytes, source.num_parameters)
    assert writer.shards == source.shards
    renames = {name: name + "'" for name in list(tensors)[::2]}
    report = copy_tensors(source, renames, copied, max_shard_bytes=second)
    assert_same(copied, {new: tensors[old] for old, new in renames.items()})
    assert report.num_tensors == len(renames)
    assert report.shards == open_checkpoint(copied).shards


def test_an_8_bit_exponent_dtype_is_stored(tmp_path: Path):
    write(tmp_path, {"scale": torch.tensor([1, 2], dtype=torch.uint8).view(torch.float8_e8m0fnu)}, 100)
    assert open_checkpoint(tmp_path).tensors["scale"].dtype == "F8_E8M0"


def test_shards_are_cut_by_size_and_named_as_transformers_does(tmp_path: Path):
    tensors = {name: torch.full((10,), float(i)) for i, name in enumerate("abcde")}
    writer = write(tmp_path, tensors | {"large": torch.zeros(100), "last": torch.zeros(2)}, 80)
    names = [f"model-0000{number}-of-00005.safetensors" for number in range(1, 6)]
    assert [shard.name for shard in writer.shards] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == [*names, "model.safetensors.index.json"]


def test_one_shard_needs_no_index(tmp_path: Path):
    write(tmp_path, {"a": torch.zeros(2)}, 10**9)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_small_files_have_no_spare_room_and_large_ones_stay_readable(tmp_path: Path, monkeypatch):
    write(tmp_path, {"a": torch.zeros(2)}, 10**9)
    assert (tmp_path / "model.safetensors").stat().st_size < 200
    monkeypatch.setattr(shard_writer, "_COMPACT_BELOW", 0)
    monkeypatch.setattr(shard_writer, "_HEADER_ROOM", 4000)
    (tmp_path / "roomy").mkdir()
    tensors = {"\x01" * 60 + str(i): torch.randn(3) for i in range(20)}
    writer = write(tmp_path / "roomy", tensors, 10**9)
    assert all(shard.stat().st_size > 4000 for shard in writer.shards)
    assert 1 < len(writer.shards) < 20  # a full header ends a shard, too
    assert_same(tmp_path / "roomy", tensors)


def test_a_name_longer_than_the_room_for_headers(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(shard_writer, "_COMPACT_BELOW", 0)
    monkeypatch.setattr(shard_writer, "_HEADER_ROOM", 100)
    tensors = {"n" * length: torch.randn(3) for length in range(100, 120)}
    write(tmp_path, tensors, 10**9)
    assert_same(tmp_path, tensors)


def test_views_transposes_and_conjugates(tmp_path: Path):
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "t": base.t(),
        "slice": base[1::2, ::3],
        "conj": torch.complex(base, base).conj(),
        "p": base[0, 0],
    }
    write(tmp_path, tensors | {"grad": torch.nn.Parameter(base)}, 10**9)
    loaded = read_with_safetensors(tmp_path)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_a_tensor_that_is_changed_after_it_was_added(tmp_path: Path):
    """Callers may prune the next block in the same memory."""
    odd, even = torch.ones(3, dtype=torch.int8), torch.ones(8, dtype=torch.int8)
    with ShardWriter(tmp_path, max_shard_bytes=10**9) as writer:
        writer.add("odd", odd)
        writer.add("even", even)
        odd.zero_()
        even.zero_()
    assert all(bool(tensor.all()) for tensor in read_with_safetensors(tmp_path).values())


def test_mistakes_leave_nothing(tmp_path: Path):
    for names, dtype, message in (
        (["a", "a"], torch.float32, "'a' was written already"),
        (["__metadata__"], torch.float32, "No tensor can be named"),
        (["a"], torch.complex128, r"cannot hold 'a': its dtype is torch\.complex128"),
        ([], torch.float32, "cannot be empty"),
    ):
        with pytest.raises(ValueError, match=message), ShardWriter(tmp_path, max_shard_bytes=4) as writer:
            for name in names:
                writer.add(name, torch.zeros(8, dtype=dtype))
        assert list(tmp_path.iterdir()) == []


def test_existing_weights_are_refused(tmp_path: Path, snapshot):
    write(tmp_path, {"a": torch.zeros(2)}, 10**9)
    before = snapshot(tmp_path)
    with pytest.raises(OutputExistsError, match=r"already holds model\.safetensors"):
        ShardWriter(tmp_path, max_shard_bytes=100)
    assert snapshot(tmp_path) == before


def test_ctrl_c_leaves_nothing(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path, max_shard_bytes=40) as writer:
        for name in "abc":
            writer.add(name, torch.zeros(10))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(small_disk: Path):
    with (
        pytest.raises(LlmpruneError, match="is full"),
        ShardWriter(small_disk, max_shard_bytes=200_000) as writer,
    ):
        for number in range(20):
            writer.add(str(number), torch.zeros(25_000))
    assert list(small_disk.iterdir()) == []
