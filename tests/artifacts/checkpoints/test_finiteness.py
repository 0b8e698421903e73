import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.artifacts.checkpoints.finiteness import NonFiniteWeightsError, find_non_finite, refuse_non_finite
from llmprune.artifacts.checkpoints.shard_writer import ShardWriter
from llmprune.errors import CheckpointError, NumericalError

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def write(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    with ShardWriter(folder, max_shard_bytes=1 << 20) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.float8_e4m3fnuz,
        torch.float8_e5m2fnuz,
        torch.float8_e8m0fnu,
    ],
)
def test_every_code_of_the_narrow_dtypes(tmp_path: Path, dtype: torch.dtype):
    """One tensor for every bit pattern, against what torch makes of it."""
    codes = torch.arange(1 << (8 * dtype.itemsize), dtype=torch.int32).to(INTEGERS[dtype.itemsize])
    codes = codes[:: 1 if dtype.itemsize == 1 else 37]
    expected = [f"{i:05d}" for i, value in enumerate(codes.view(dtype).tolist()) if not math.isfinite(value)]
    write(tmp_path, {f"{i:05d}": code.reshape(1).view(dtype) for i, code in enumerate(codes)})
    assert sorted(find_non_finite(open_checkpoint(tmp_path))) == expected
    assert expected


@given(
    value=st.floats(width=32) | st.sampled_from([math.nan, -math.nan, math.inf, -math.inf]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.complex64]),
    place=st.integers(0, 4),
)
@settings(max_examples=40, deadline=None)
def test_wide_dtypes(tmp_path_factory: pytest.TempPathFactory, value: float, dtype: torch.dtype, place: int):
    folder = tmp_path_factory.mktemp("wide")
    tensor = torch.linspace(-1, 1, 5).to(dtype)
    tensor[place] = complex(0, value) if dtype.is_complex else value
    write(folder, {"w": tensor})
    assert find_non_finite(open_checkpoint(folder)) == ([] if math.isfinite(value) else ["w"])


def test_far_into_a_large_tensor_and_names_in_order(tmp_path: Path):
    bad = torch.zeros(1_100_000, dtype=torch.bfloat16)
    bad[-1] = torch.nan
    integers = torch.full((9,), -1, dtype=torch.int16)  # all bits set, and no float
    write(tmp_path, {"b": bad, "i": integers, "empty": torch.zeros(0), "good": torch.ones(3), "a": bad.clone()})
    checkpoint = open_checkpoint(tmp_path)
    assert len(checkpoint.shards) == 3
    assert find_non_finite(checkpoint) == ["b", "a"]
    assert find_non_finite(checkpoint, ["a", "good"]) == ["a"]
    with pytest.raises(CheckpointError, match="no tensor named 'x'"):
        find_non_finite(checkpoint, ["x"])


def test_the_sentence():
    refuse_non_finite([])
    message = "NaN or infinity in the weights a, b, c and 2 more; get an intact copy of the model"
    with pytest.raises(NonFiniteWeightsError, match=message) as caught:
        refuse_non_finite(list("abcde"))
    assert isinstance(caught.value, CheckpointError)
    assert isinstance(caught.value, NumericalError)
    assert caught.value.exit_code == 2
