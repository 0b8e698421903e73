import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from llmprune.artifacts.checkpoints import copying
from llmprune.artifacts.checkpoints.checkpoint import Checkpoint, open_checkpoint
from llmprune.artifacts.checkpoints.copying import copy_tensors
from llmprune.artifacts.files import ranges
from llmprune.errors import CheckpointError, LlmpruneError, NumericalError, OutputExistsError
from tests.checkpoints import save_shards

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.float8_e4m3fn),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8),
    torch.bool,
]


def make(folder: Path, *, count: int = 6, numel: int = 1000, max_shard_bytes: int = 10_000) -> Checkpoint:
    generator = torch.Generator().manual_seed(0)
    tensors = {f"w{number}": torch.randn(numel, generator=generator) for number in range(count)}
    return save_shards(folder, tensors, max_shard_bytes=max_shard_bytes)


def identity(source: Checkpoint) -> dict[str, str]:
    return {name: name for name in source.tensors}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def test_transformers_loads_the_copy(tmp_path: Path, target: Path):
    """Block 1 of 3 removed, the last renumbered, tied embeddings still stored once."""
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        vocab_size=32,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "source", max_shard_size="4KB")
    source = open_checkpoint(tmp_path / "source")
    assert "lm_head.weight" not in source.tensors
    kept = [name for name in source.tensors if "layers.1." not in name]
    copy_tensors(source, {n: n.replace("layers.2.", "layers.1.") for n in kept}, target, max_shard_bytes=3000)
    config.num_hidden_layers = 2
    config.save_pretrained(target)
    copied, info = LlamaForCausalLM.from_pretrained(target, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    del model.model.layers[1]
    model.model.layers[1].self_attn.layer_idx = 1
    tokens = torch.arange(8).reshape(1, 8)
    assert torch.equal(copied(tokens, use_cache=False).logits, model(tokens, use_cache=False).logits)


def random_tensor(shape: list[int], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    nbytes = torch.Size(shape).numel() * dtype.itemsize
    raw = torch.randint(0, 2 if dtype is torch.bool else 256, (nbytes,), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).reshape(shape)


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")
SHAPES = st.lists(st.integers(0, 5), max_size=4)
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


@given(tensors=TENSORS, first=st.integers(1, 2000), second=st.integers(1, 2000))
@settings(max_examples=60, deadline=None)
def test_every_dtype_and_shape_is_copied_bit_for_bit(tmp_path_factory, tensors, first: int, second: int):
    """Every second tensor, under another name, into shards of another size; safetensors and our reader agree."""
    source = save_shards(tmp_path_factory.mktemp("source"), tensors, max_shard_bytes=first)
    folder = tmp_path_factory.mktemp("copied")
    renames = {name: name + "'" for name in list(tensors)[::2]}
    report = copy_tensors(source, renames, folder, max_shard_bytes=second)
    copied = open_checkpoint(folder)
    assert report.shards == copied.shards
    expected = {new: tensors[old] for old, new in renames.items()}
    for found in (read_with_safetensors(folder), copied.load(expected)):
        assert {name: raw(tensor) for name, tensor in found.items()} == {
            name: raw(tensor) for name, tensor in expected.items()
        }
    assert all(entry.start % expected[name].dtype.itemsize == 0 for name, entry in copied.tensors.items())
    index = folder / "model.safetensors.index.json"
    assert index.exists() == (len(copied.shards) > 1)
    if index.exists():
        parsed = json.loads(index.read_text())
        assert parsed["metadata"] == {"total_parameters": copied.num_parameters, "total_size": copied.nbytes}
        assert parsed["weight_map"] == {name: entry.shard.name for name, entry in copied.tensors.items()}


def test_shards_are_cut_by_size_and_named_as_transformers_does(tmp_path: Path, target: Path):
    tensors = {name: torch.full((10,), float(number)) for number, name in enumerate("abcde")}
    source = save_shards(tmp_path / "source", {**tensors, "large": torch.zeros(100), "last": torch.zeros(2)})
    order = {name: name for name in (*"abcde", "large", "last")}
    report = copy_tensors(source, order, target, max_shard_bytes=80)
    names = [f"model-0000{number}-of-00005.safetensors" for number in range(1, 6)]
    assert [shard.name for shard in report.shards] == names
    assert sorted(path.name for path in target.iterdir()) == [*names, "model.safetensors.index.json"]


def test_one_shard_needs_no_index(tmp_path: Path, target: Path):
    copy_tensors(save_shards(tmp_path / "source", {"a": torch.zeros(2)}), {"a": "a"}, target)
    assert [path.name for path in target.iterdir()] == ["model.safetensors"]


def test_progress_and_report(tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch):
    source = make(tmp_path / "source")
    monkeypatch.setattr(copying, "PIECE", 1000)
    steps: list[int] = []
    report = copy_tensors(source, identity(source), target, max_shard_bytes=12_000, progress=steps.append)
    assert sum(steps) == report.nbytes == source.nbytes == 24_000
    assert max(steps) <= 1000
    assert len(report.shards) == 2
    assert report.num_parameters == 6000
    assert open_checkpoint(target).fingerprint() == source.fingerprint()


@pytest.mark.parametrize("piece", [8, 1000, 1 << 20])
@pytest.mark.parametrize("max_shard_bytes", [9000, 10**9])
def test_the_report_has_the_digest_of_every_file(tmp_path, target, monkeypatch, piece: int, max_shard_bytes: int):
    monkeypatch.setattr(copying, "PIECE", piece)
    source = save_shards(tmp_path / "source", {f"w{i}": torch.randn(37 + i) for i in range(80)})
    report = copy_tensors(source, identity(source), target, max_shard_bytes=max_shard_bytes)
    assert set(report.files) == {path.name for path in target.iterdir()}
    for path in target.iterdir():
        assert report.files[path.name].nbytes == path.stat().st_size
        assert report.files[path.name].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_is_recorded_is_what_was_meant_not_what_a_disk_made_of_it(tmp_path, target, monkeypatch):
    """A disk that loses a bit while it writes: the digest is that of the source's bytes."""
    real = ranges.write_fully

    def lossy(file, content):
        real(file, bytes(content)[:-1] + b"\x01")

    source = make(tmp_path / "source", max_shard_bytes=10**9)
    monkeypatch.setattr(copying, "write_fully", lossy)
    report = copy_tensors(source, identity(source), target)
    written = (target / "model.safetensors").read_bytes()
    assert report.files["model.safetensors"].nbytes == len(written)
    assert report.files["model.safetensors"].sha256 != hashlib.sha256(written).hexdigest()


def test_tensors_can_be_changed_on_their_way(tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(copying, "PIECE", 64)
    source = make(tmp_path / "source")
    starts: list[int] = []

    def zero(entry, start, piece):
        if entry.name == "w1":
            starts.append(start)
            piece[:] = 0

    report = copy_tensors(source, identity(source), target, change=zero)
    found, before = open_checkpoint(target).load(source.tensors), source.load(source.tensors)
    assert starts == list(range(0, source.tensors["w1"].nbytes, 64))
    for name, tensor in before.items():
        assert torch.equal(found[name], torch.zeros_like(tensor) if name == "w1" else tensor)
    for name, digest in report.files.items():
        assert digest.sha256 == hashlib.sha256((target / name).read_bytes()).hexdigest()


def test_an_error_of_the_disk_leaves_nothing(tmp_path, target, monkeypatch):
    source = make(tmp_path / "source")

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(copying, "write_fully", fail)
    with pytest.raises(OSError, match="broken disk"):
        copy_tensors(source, identity(source), target)
    assert list(target.iterdir()) == []


def test_a_source_that_shrinks(tmp_path: Path, target: Path):
    source = make(tmp_path / "source")
    os.truncate(source.shards[-1], source.shards[-1].stat().st_size - 100)
    with pytest.raises(CheckpointError, match="became shorter while it was read"):
        copy_tensors(source, identity(source), target)
    assert list(target.iterdir()) == []


def test_non_finite_weights_are_named_and_nothing_is_left(tmp_path: Path, target: Path):
    source = save_shards(tmp_path / "source", {"good": torch.ones(50), "bad": torch.tensor([1.0, torch.inf])})
    with pytest.raises(NumericalError, match="NaN or infinity in the weights bad;") as caught:
        copy_tensors(source, identity(source), target, check_finite=source.tensors)
    assert caught.value.exit_code == 2
    assert list(target.iterdir()) == []
    copy_tensors(source, {"good": "good"}, target, check_finite=source.tensors)


@pytest.mark.parametrize(
    ("renames", "kind", "message"),
    [
        ({"x": "x"}, CheckpointError, "has no tensor named 'x'"),
        ({"w0": "a", "w1": "a"}, ValueError, "the same name"),
        ({"w0": "__metadata__"}, ValueError, "No tensor can be named"),
        ({}, ValueError, "Nothing to copy"),
    ],
)
def test_mistakes_write_nothing(tmp_path: Path, target: Path, renames, kind: type[Exception], message: str):
    with pytest.raises(kind, match=message):
        copy_tensors(make(tmp_path / "source"), renames, target)
    assert list(target.iterdir()) == []


def test_existing_weights_are_refused(tmp_path: Path, snapshot):
    source = make(tmp_path / "source")
    before = snapshot(tmp_path)
    with pytest.raises(OutputExistsError, match="source already holds model-00001"):
        copy_tensors(source, identity(source), source.directory)
    assert snapshot(tmp_path) == before


def test_ctrl_c_leaves_nothing(tmp_path: Path, target: Path):
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    source = make(tmp_path / "source")
    with pytest.raises(KeyboardInterrupt):
        copy_tensors(source, identity(source), target, progress=interrupt, check_finite=source.tensors)
    assert list(target.iterdir()) == []


def test_too_little_room_is_said_before_anything_is_written(tmp_path: Path, small_disk: Path):
    source = make(tmp_path / "source", numel=100_000)
    with pytest.raises(LlmpruneError, match=r"is full \(2\.4 MB needed, 1\.0 MB left\)"):
        copy_tensors(source, identity(source), small_disk)
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile(tmp_path: Path, small_disk: Path):
    source = make(tmp_path / "source", numel=35_000, max_shard_bytes=300_000)

    def fill(_: int) -> None:
        if not (small_disk / "other").exists():
            (small_disk / "other").write_bytes(bytes(500_000))

    with pytest.raises(LlmpruneError, match=r"is full \(840\.0 kB needed, .* left\)"):
        copy_tensors(source, identity(source), small_disk, max_shard_bytes=300_000, progress=fill)
    assert [path.name for path in small_disk.iterdir()] == ["other"]
