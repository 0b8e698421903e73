"""Zeros counted in files, against what torch sees in the tensors."""

import tracemalloc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmprune.algorithms.weights.patterns import SemiStructured, Unstructured, select_mask
from llmprune.errors import CheckpointError, TargetError
from llmprune.evaluation.sparsity import measure_sparsity
from tests.checkpoints import save_shards


def measure_one(folder, tensor, **options):
    (found,) = measure_sparsity(save_shards(folder, {"w": tensor}), **options).tensors
    return found


FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 9),
    groups=st.integers(1, 4),
    density=st.sampled_from([0.0, 0.3, 0.9]),
    dtype=st.sampled_from([*FLOATS, torch.int8, torch.int64]),
)
def test_everything_is_what_torch_counts(tmp_path_factory, seed, rows, groups, density, dtype):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-3, 4, (rows, 4 * groups), generator=generator).double()
    weight *= torch.rand(weight.shape, generator=generator) < density
    found = measure_one(tmp_path_factory.mktemp("w"), weight.to(dtype), pattern=SemiStructured(2, 4))
    zero = weight == 0
    assert (found.parameters, found.zeros) == (zero.numel(), int(zero.sum()))
    assert found.zero_rows == int(zero.all(dim=1).sum())
    assert found.zero_columns == int(zero.all(dim=0).sum())
    assert found.groups == rows * groups
    assert found.violations == int((zero.view(rows, -1, 4).sum(dim=2) < 2).sum())


@pytest.mark.parametrize("dtype", FLOATS)
def test_minus_zero_is_zero_and_the_smallest_number_is_not(tmp_path, dtype):
    smallest = torch.finfo(dtype).smallest_normal
    found = measure_one(tmp_path, torch.tensor([0.0, -0.0, smallest, -smallest], dtype=torch.float64).to(dtype))
    assert (found.zeros, found.zero_rows, found.zero_columns) == (2, 0, 0)


@pytest.mark.parametrize("pattern", [SemiStructured(2, 4), SemiStructured(3, 4), SemiStructured(4, 8)])
def test_a_pruned_matrix_keeps_its_pattern_and_one_weight_more_breaks_it(tmp_path, pattern):
    weight = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    weight *= select_mask(weight.abs(), pattern)
    assert measure_one(tmp_path / "kept", weight, pattern=pattern).violations == 0
    weight[3, int((weight[3] == 0).nonzero()[0])] = 1
    assert measure_one(tmp_path / "broken", weight, pattern=pattern).violations == 1


def test_a_matrix_stored_inputs_first_is_counted_as_its_transpose(tmp_path):
    weight = torch.randn(700, 40, generator=torch.Generator().manual_seed(0)).relu()
    weight[5], weight[:, 7] = 0, 0
    pattern = SemiStructured(1, 4)
    usual = measure_one(tmp_path / "a", weight, pattern=pattern)
    turned = measure_one(tmp_path / "b", weight.T.contiguous(), pattern=pattern, inputs_first={"w"})
    assert usual.violations > 0
    assert usual.model_copy(update={"shape": (40, 700)}) == turned


def test_fused_experts_count_as_one_matrix_of_their_inputs(tmp_path):
    weight = torch.ones(3, 2, 4)
    weight[1, 1] = 0
    found = measure_one(tmp_path, weight, pattern=SemiStructured(2, 4))
    assert (found.shape, found.zero_rows, found.zero_columns, found.violations) == ((3, 2, 4), 1, 0, 5)


def test_totals_of_chosen_tensors_across_shards(tmp_path):
    big = torch.ones(600, 1000)
    big[:300] = 0
    checkpoint = save_shards(tmp_path, {"a": big, "b": torch.zeros(5), "empty": torch.zeros(0, 4), "c": big.clone()})
    assert len(checkpoint.shards) > 1
    report = measure_sparsity(checkpoint)
    assert [tensor.name for tensor in report.tensors] == list(checkpoint.tensors)
    assert (report.parameters, report.zeros) == (1_200_005, 600_005)
    assert report.effective_parameters == 600_000
    assert report.ratio == pytest.approx(600_005 / 1_200_005)
    assert (report.zero_rows, report.zero_columns) == (600, 0)
    assert [tensor.ratio for tensor in measure_sparsity(checkpoint, ["empty", "c"]).tensors] == [0.0, 0.5]
    assert measure_sparsity(checkpoint, []).ratio == 0.0


def test_an_unstructured_pattern_says_nothing_of_groups(tmp_path):
    checkpoint = save_shards(tmp_path, {"w": torch.eye(3)})
    report = measure_sparsity(checkpoint, pattern=Unstructured(0.5))
    assert (report.pattern, report.groups, report.violations) == (None, 0, 0)
    assert measure_sparsity(checkpoint, pattern=SemiStructured(1, 3)).pattern == "1:3"


def test_what_cannot_be_measured_is_said(tmp_path):
    checkpoint = save_shards(tmp_path, {"w": torch.ones(3, 6)})
    with pytest.raises(CheckpointError, match="no tensor named 'x'"):
        measure_sparsity(checkpoint, ["x"])
    with pytest.raises(TargetError, match="needs a multiple of 4 inputs, and there are 6"):
        measure_sparsity(checkpoint, pattern=SemiStructured(2, 4))
    with pytest.raises(CheckpointError, match="cannot be counted: it is stored as F8_E8M0"):
        measure_sparsity(save_shards(tmp_path / "packed", {"w": torch.ones(8).to(torch.float8_e8m0fnu)}))


def test_memory_does_not_grow_with_the_tensor(tmp_path):
    peaks = []
    for rows in (4_000, 16_000):
        checkpoint = save_shards(tmp_path / str(rows), {"w": torch.zeros(rows, 1_000)})
        tracemalloc.start()
        assert measure_sparsity(checkpoint, pattern=SemiStructured(2, 4)).violations == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < 8 * 2**20
