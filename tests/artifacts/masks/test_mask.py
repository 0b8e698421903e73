"""Mask files: what is read back is what is zero, bit by bit, and nothing else passes for a mask."""

import json
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from llmprune.artifacts.checkpoints import zeros
from llmprune.artifacts.files.ranges import open_shards
from llmprune.artifacts.masks.mask import (
    BIT_ORDER,
    MASK_NAME,
    SCHEMA,
    kept_elements,
    numbered_modules,
    read_mask,
    write_mask,
)
from llmprune.artifacts.records.unchecked import UncheckedWarning
from llmprune.errors import ArtifactError, CheckpointError
from tests.checkpoints import save_shards

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def sparse(shape, *, seed=0, density=0.5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-3, 4, shape, generator=generator).double()
    return (weight * (torch.rand(shape, generator=generator) < density)).to(dtype)


def bits_by_the_documented_rule(packed, numel):
    """Element i is bit i % 8, from the least significant, of byte i // 8."""
    return [bool(packed[i // 8] >> (i % 8) & 1) for i in range(numel)]


shapes = st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple)


@given(
    shapes=st.lists(shapes, min_size=1, max_size=4),
    seed=st.integers(0, 2**31),
    density=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    dtype=st.sampled_from([*FLOATS, torch.int8, torch.int64]),
    chunk=st.sampled_from([1, 16, 1 << 20]),
)
def test_what_is_read_is_what_was_zero(tmp_path_factory, shapes, seed, density, dtype, chunk):
    folder = tmp_path_factory.mktemp("w")
    weights = {
        f"layers.{number}.w": sparse(shape, seed=seed + number, density=density, dtype=dtype)
        for number, shape in enumerate(shapes)
    }
    checkpoint = save_shards(folder, weights, max_shard_bytes=200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zeros, "_CHUNK", chunk)
        write_mask(checkpoint, list(weights), folder / MASK_NAME, pattern="50%")
    mask = read_mask(folder / MASK_NAME)
    assert mask.tensors.keys() == weights.keys()
    assert mask.fingerprint == checkpoint.fingerprint()
    assert mask.pattern == "50%"
    assert mask.numbered == {"layers.": len(shapes)}
    with safe_open(folder / MASK_NAME, framework="np") as file:
        for name, weight in weights.items():
            expected = (weight.double() != 0).numpy()
            assert np.array_equal(mask.kept(name), expected)
            packed = file.get_tensor(name)
            assert packed.dtype == np.uint8
            assert len(packed) == -(-weight.numel() // 8)
            assert bits_by_the_documented_rule(packed.tolist(), weight.numel()) == expected.ravel().tolist()


@given(numel=st.integers(1, 200), begin=st.integers(0, 24), length=st.integers(0, 200), seed=st.integers(0, 99))
def test_a_range_is_a_piece_of_the_whole(tmp_path_factory, numel, begin, length, seed):
    folder = tmp_path_factory.mktemp("w")
    write_mask(save_shards(folder, {"w": sparse((numel,), seed=seed)}), ["w"], folder / "m")
    mask = read_mask(folder / "m")
    start = min(begin * 8, numel // 8 * 8)
    end = min(start + length, numel)
    with open_shards([mask.path]) as files:
        piece = kept_elements(files[mask.path], mask.tensors["w"], start, end)
    assert np.array_equal(piece, mask.kept("w")[start:end])


def test_minus_zero_is_pruned_and_the_smallest_number_is_kept(tmp_path):
    weight = torch.tensor([0.0, -0.0, torch.finfo(torch.bfloat16).smallest_normal, 5e-39], dtype=torch.bfloat16)
    write_mask(save_shards(tmp_path, {"w": weight}), ["w"], tmp_path / "m")
    assert read_mask(tmp_path / "m").kept("w").tolist() == [False, False, True, True]


def test_only_the_named_tensors_are_in_it_and_the_file_says_how_to_read_it(tmp_path):
    names = [f"model.layers.{block}.{kind}" for block in range(3) for kind in ("up", "norm")]
    checkpoint = save_shards(tmp_path, {name: sparse((4, 4)) for name in [*names, "embed"]})
    write_mask(checkpoint, ["model.layers.1.up"], tmp_path / "m")
    mask = read_mask(tmp_path / "m")
    assert list(mask.tensors) == ["model.layers.1.up"]
    assert mask.numbered == {"model.layers.": 3}  # of the checkpoint, whatever part of it was pruned
    assert mask.pattern is None
    with safe_open(tmp_path / "m", framework="np") as file:
        text = file.metadata()
    assert text["bit_order"] == BIT_ORDER
    assert json.loads(text["shapes"]) == {"model.layers.1.up": [4, 4]}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["h.0.w", "h.0.b", "h.1.w"], {"h.": 2}),
        (["0.w"], {"": 1}),
        (["model.layers.7.experts.3.w", "model.layers.7.experts.4.w"], {"model.layers.": 1}),
        (["a.b2.w", "norm", "a.3"], {}),
    ],
)
def test_modules_are_counted_by_the_first_number_of_a_name(names, expected):
    assert numbered_modules(names) == expected


def test_memory_does_not_grow_with_the_tensor(tmp_path):
    checkpoint = save_shards(tmp_path, {"w": torch.ones(8 << 20, dtype=torch.float16)}, max_shard_bytes=1 << 30)
    write_mask(checkpoint, ["w"], tmp_path / "warm")
    tracemalloc.start()
    try:
        write_mask(checkpoint, ["w"], tmp_path / "m")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20  # of 16 MiB


def test_what_cannot_be_masked_leaves_no_file(tmp_path):
    checkpoint = save_shards(tmp_path, {"w": sparse((4,))})
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match="no tensor named 'v'"):
        write_mask(checkpoint, ["w", "v"], tmp_path / "m")
    with pytest.raises(ValueError, match="needs a tensor"):
        write_mask(checkpoint, [], tmp_path / "m")
    checkpoint.shards[0].write_bytes(checkpoint.shards[0].read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="became shorter"):
        write_mask(checkpoint, ["w"], tmp_path / "m")
    assert sorted(tmp_path.iterdir()) == before


TEXT = {"kind": "llmprune-mask", "schema_version": "1", "fingerprint": "f", "shapes": '{"w":[12]}', "numbered": "{}"}
BROKEN = {
    "another kind": ({"kind": "else"}, "is no mask of llmprune's: its kind is 'else'"),
    "a newer schema": ({"schema_version": "2"}, f"has schema '2', but this llmprune .* reads schema {SCHEMA}"),
    "no fingerprint": ({"fingerprint": None}, "its header has no 'fingerprint'"),
    "no shapes": ({"shapes": None}, "its header has no 'shapes'"),
    "shapes in broken JSON": ({"shapes": "{"}, "There is no valid JSON in 'shapes'"),
    "shapes of a list": ({"shapes": "[]"}, "There is no JSON object in 'shapes'"),
    "another tensor": ({"shapes": '{"v":[12]}'}, "is not both among its shapes and among its tensors"),
    "a tensor more": ({"shapes": '{"w":[12],"x":[1]}'}, "'x' is not both among"),
    "too large a shape": ({"shapes": '{"w":[17]}'}, "does not have a bit for each element"),
    "too small a shape": ({"shapes": '{"w":[8]}'}, "does not have a bit for each element"),
    "a shape of words": ({"shapes": '{"w":["12"]}'}, "the shape of 'w' is"),
    "a negative shape": ({"shapes": '{"w":[-3,-4]}'}, "the shape of 'w' is"),
    "counts of words": ({"numbered": '{"h.":"3"}'}, "'numbered' does not hold counts"),
    "bits behind the end": ({"shapes": '{"w":[11]}'}, "has bits behind its last element"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_whatever_contradicts_itself_is_refused(case, tmp_path):
    changes, words = BROKEN[case]
    text = {name: value for name, value in {**TEXT, **changes}.items() if value is not None}
    save_file({"w": np.array([0xFF, 0x0F], np.uint8)}, tmp_path / "m", metadata=text)
    with pytest.raises((ArtifactError, CheckpointError), match=words):
        read_mask(tmp_path / "m")


def test_the_file_of_these_cases_is_read_when_nothing_is_wrong_with_it(tmp_path):
    save_file({"w": np.array([0xFF, 0x0F], np.uint8)}, tmp_path / "m", metadata=TEXT)
    with pytest.warns(UncheckedWarning, match="m was written by an earlier llmprune and has no digest"):
        mask = read_mask(tmp_path / "m")
    assert mask.kept("w").all()
    with pytest.raises(ArtifactError, match="has no mask of 'v'"):
        mask.kept("v")


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path):
    write_mask(save_shards(tmp_path, {"w": sparse((5, 5))}), ["w"], tmp_path / "m")
    whole = (tmp_path / "m").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "m").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut off|no safetensors file|no valid JSON"):
            read_mask(tmp_path / "m")


@pytest.mark.parametrize("path", ["nowhere", "."])
def test_a_path_that_is_no_file_is_refused(path, tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_mask(tmp_path / path)
