import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint
from llmprune.artifacts.checkpoints.finiteness import NonFiniteWeightsError, find_non_finite, refuse_non_finite
from llmprune.errors import CheckpointError, NumericalError
from tests.checkpoints import save_shards


def found_in(checkpoint: Checkpoint) -> list[str]:
    return find_non_finite(checkpoint, checkpoint.tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_code_of_the_narrow_dtypes(tmp_path: Path, dtype: torch.dtype):
    """One tensor for every bit pattern, against what torch makes of it."""
    codes = torch.arange(0, 1 << 16, 37, dtype=torch.int32).to(torch.int16)
    expected = [f"{i:05d}" for i, value in enumerate(codes.view(dtype).tolist()) if not math.isfinite(value)]
    checkpoint = save_shards(tmp_path, {f"{i:05d}": code.reshape(1).view(dtype) for i, code in enumerate(codes)})
    assert sorted(found_in(checkpoint)) == expected
    assert expected


@given(
    value=st.floats(width=32) | st.sampled_from([math.nan, -math.nan, math.inf, -math.inf]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    place=st.integers(0, 4),
)
@settings(max_examples=40, deadline=None)
def test_wide_dtypes(tmp_path_factory: pytest.TempPathFactory, value: float, dtype: torch.dtype, place: int):
    folder = tmp_path_factory.mktemp("wide")
    tensor = torch.linspace(-1, 1, 5).to(dtype)
    tensor[place] = value
    assert found_in(save_shards(folder, {"w": tensor})) == ([] if math.isfinite(value) else ["w"])


def test_far_into_a_large_tensor_and_names_in_order(tmp_path: Path):
    bad = torch.zeros(1_100_000, dtype=torch.bfloat16)
    bad[-1] = torch.nan
    integers = torch.full((9,), -1, dtype=torch.int16)  # all bits set, and no float
    tensors = {"b": bad, "i": integers, "empty": torch.zeros(0), "good": torch.ones(3), "a": bad}
    checkpoint = save_shards(tmp_path, tensors, max_shard_bytes=1 << 20)
    assert len(checkpoint.shards) == 3
    assert found_in(checkpoint) == ["b", "a"]
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
