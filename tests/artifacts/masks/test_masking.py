"""Masks laid on files: zero where they say so, every other bit as it was, and no file damaged by a mask of another."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmprune.artifacts.checkpoints import copying
from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.artifacts.checkpoints.copying import copy_tensors
from llmprune.artifacts.masks import masking
from llmprune.artifacts.masks.mask import read_mask, write_mask
from llmprune.artifacts.masks.masking import check_fits, require_masked, zeroing
from llmprune.errors import ArtifactError, VerificationError
from tests.checkpoints import save_shards

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64]


def random_bits(shape, dtype, generator):
    """Any bits at all, NaN among them; (..., bytes) seen as the dtype."""
    raw = torch.randint(0, 256, (*shape, dtype.itemsize), generator=generator, dtype=torch.uint8)
    return raw.view(dtype).squeeze(-1)


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).reshape(tensor.numel(), -1)


@given(
    shapes=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 9)), min_size=1, max_size=4),
    dtype=st.sampled_from(DTYPES),
    masked=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    chunk=st.sampled_from([8, 16, 1 << 20]),
)
def test_masked_weights_are_zero_and_all_other_bits_are_kept(tmp_path_factory, shapes, dtype, masked, seed, chunk):
    folder = tmp_path_factory.mktemp("w")
    generator = torch.Generator().manual_seed(seed)
    keeps = {f"{i}.w": torch.rand(shape, generator=generator) < 0.5 for i, shape in enumerate(shapes)}
    pruned = save_shards(folder / "pruned", {name: keep.half() for name, keep in keeps.items()})
    write_mask(pruned, list(keeps)[:masked], folder / "m")
    mask = read_mask(folder / "m")
    weights = {name: random_bits(keep.shape, dtype, generator) for name, keep in keeps.items()}
    source = save_shards(folder / "source", weights, max_shard_bytes=100)
    check_fits(mask, source)
    (folder / "written").mkdir()
    with pytest.MonkeyPatch.context() as patch, zeroing(mask) as zero:
        patch.setattr(masking, "_CHUNK", chunk)
        patch.setattr(copying, "PIECE", chunk * dtype.itemsize if chunk < 100 else copying.PIECE)
        names = {name: name for name in source.tensors}
        copy_tensors(source, names, folder / "written", max_shard_bytes=150, change=zero)
        written = open_checkpoint(folder / "written")
        require_masked(source, written, mask)
    found = written.load(weights)
    for name, weight in weights.items():
        keep = keeps[name].reshape(-1, 1) if name in mask.tensors else torch.ones(1, 1, dtype=torch.bool)
        assert torch.equal(bits(found[name]), bits(weight) * keep)


@pytest.fixture
def pair(tmp_path):
    """A mask over two of three blocks' weights, and the checkpoint that it was made from."""
    generator = torch.Generator().manual_seed(0)
    weights = {f"h.{i}.w": torch.randn(4, 6, generator=generator) for i in range(3)} | {"head": torch.randn(4, 2)}
    pruned = {name: weight * (weight > 0) for name, weight in weights.items()}
    write_mask(save_shards(tmp_path / "pruned", pruned), ["h.0.w", "h.2.w"], tmp_path / "m")
    return read_mask(tmp_path / "m"), weights


DAMAGES = {
    "a masked weight that is not zero": ("h.0.w", lambda weight: weight + (weight == 0)),
    "a kept weight that changed": ("h.2.w", lambda weight: weight * 2),
    "a weight of no mask that changed": ("h.1.w", lambda weight: weight + 1e-7),
    "another dtype": ("head", lambda weight: weight.double()),
    "another shape": ("head", lambda weight: weight.T.contiguous()),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_whatever_was_written_wrong_is_seen_and_named(case, pair, tmp_path):
    mask, weights = pair
    source = save_shards(tmp_path / "source", weights)
    keeps = {name: torch.from_numpy(mask.kept(name)) for name in mask.tensors}
    masked = {name: torch.where(keep, weights[name], 0.0) for name, keep in keeps.items()}
    right = {**weights, **masked}
    require_masked(source, save_shards(tmp_path / "right", right), mask)
    name, damage = DAMAGES[case]
    with pytest.raises(VerificationError, match=name):
        require_masked(source, save_shards(tmp_path / "wrong", {**right, name: damage(right[name])}), mask)
    del right["h.1.w"]
    with pytest.raises(VerificationError, match=r"h\.1\.w"):
        require_masked(source, save_shards(tmp_path / "lacking", right), mask)


def without(name):
    return lambda weights: {key: value for key, value in weights.items() if key != name}


MISFITS = {
    "a weight is missing": (without("h.2.w"), r"masks h\.2\.w, which .* does not have"),
    "a weight has another shape": (
        lambda weights: {**weights, "h.0.w": weights["h.0.w"].T.contiguous()},
        r"masks h\.0\.w with shape \(4, 6\), but in .* it has \(6, 4\)",
    ),
    "there are more blocks": (
        lambda weights: {**weights, "h.3.w": torch.ones(4, 6)},
        r"made from 3 blocks \(h\.0 to h\.2\), but .* has 4; if blocks were removed .* remove-blocks",
    ),
    "there are fewer": (without("h.1.w"), r"made from 3 blocks .* has 2"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_mask_of_another_model_is_refused(case, pair, tmp_path):
    mask, weights = pair
    change, words = MISFITS[case]
    with pytest.raises(ArtifactError, match=words):
        check_fits(mask, save_shards(tmp_path / "other", change(weights)))


def test_a_sibling_may_differ_in_dtype_and_outside_the_mask(pair, tmp_path):
    mask, weights = pair
    other = {name: weight.bfloat16() for name, weight in weights.items()} | {"head": torch.ones(9, 2)}
    check_fits(mask, save_shards(tmp_path / "other", other))
