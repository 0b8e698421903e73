import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmprune.algorithms.weights import magnitude, sparsegpt
from llmprune.algorithms.weights.factor import factorise
from llmprune.algorithms.weights.layer import LayerSettings, prune_layer
from llmprune.algorithms.weights.patterns import SemiStructured, Unstructured, keep_largest, zero_count
from tests.algorithms.problems import layer, normal, satisfies
from tests.reference import obs_sparsegpt


@pytest.mark.parametrize(
    "pattern", [Unstructured(0.3), Unstructured(0.7), SemiStructured(2, 4), SemiStructured(3, 4)], ids=str
)
@pytest.mark.parametrize("block_size", [4, 8, 24])
def test_matches_the_optimal_brain_surgeon(pattern, block_size):
    weight, gram = layer(9, 24, seed=1, dtype=torch.float64)
    pruned = sparsegpt.prune_linear(weight, gram, pattern, damping=0.01, block_size=block_size)
    expected = obs_sparsegpt(weight, gram, pattern, damping=0.01, block_size=block_size)
    torch.testing.assert_close(pruned.weight, expected, rtol=0, atol=1e-6)
    assert pruned.damping == 0.01


def test_float32_is_near_float64():
    weight, gram = layer(9, 24, seed=1, dtype=torch.float64)
    wide = sparsegpt.prune_linear(weight, gram, Unstructured(0.5))
    narrow = sparsegpt.prune_linear(weight.float(), gram.float(), Unstructured(0.5))
    assert torch.equal(wide.mask, narrow.mask)
    torch.testing.assert_close(narrow.weight.double(), wide.weight, rtol=1e-3, atol=1e-3)


def test_identity_gram_is_magnitude_in_each_column_block():
    weight = normal(13, 50, seed=0)
    pruned = sparsegpt.prune_linear(weight, torch.eye(50), Unstructured(0.37), block_size=16)
    done = 0
    for start in range(0, 50, 16):
        columns = slice(start, min(start + 16, 50))
        zeros = zero_count(0.37, 13 * columns.stop) - done
        done += zeros
        expected = keep_largest(weight[:, columns].T.abs(), zeros).T
        assert torch.equal(pruned.mask[:, columns], expected)
    assert torch.equal(pruned.weight, weight * pruned.mask)


def test_identity_gram_is_magnitude_in_each_group():
    weight = normal(13, 48, seed=0)
    pruned = sparsegpt.prune_linear(weight, torch.eye(48), SemiStructured(2, 4))
    assert torch.equal(pruned.weight, magnitude.prune_linear(weight, None, SemiStructured(2, 4)).weight)


def test_a_block_holds_whole_groups():
    weight, gram = layer(9, 24, seed=1)
    odd = sparsegpt.prune_linear(weight, gram, SemiStructured(2, 4), block_size=6)
    even = sparsegpt.prune_linear(weight, gram, SemiStructured(2, 4), block_size=8)
    assert torch.equal(odd.weight, even.weight)


def test_a_factor_can_be_shared():
    weight, gram = layer(9, 24, seed=1)
    factor = factorise(gram, damping=0.02)
    shared, again = (sparsegpt.prune_linear(weight, gram, Unstructured(0.5), factor=factor) for _ in range(2))
    alone = sparsegpt.prune_linear(weight, gram, Unstructured(0.5), damping=0.02)
    assert torch.equal(shared.weight, alone.weight)
    assert torch.equal(again.weight, alone.weight)
    assert shared.damping == 0.02


def dead_layer(dead: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    weight, gram = layer(6, 16, seed=2)
    gram[dead] = 0
    gram[:, dead] = 0
    return weight, gram


def test_dead_inputs_go_first_and_count_as_pruned():
    weight, gram = dead_layer([1, 2, 9])
    pruned = sparsegpt.prune_linear(weight, gram, Unstructured(0.5), block_size=8)
    assert not pruned.mask[:, [1, 2, 9]].any()
    assert not pruned.weight[:, [1, 2, 9]].any()
    assert pruned.zeros == 48
    bare = sparsegpt.prune_linear(weight, gram, Unstructured(0.5), block_size=8, damping=0)
    assert bare.zeros == 48


def test_of_too_many_dead_inputs_the_smallest_weights_go():
    dead = [0, 1, 2, 9]
    weight, gram = dead_layer(dead)
    pruned = sparsegpt.prune_linear(weight, gram, SemiStructured(2, 4))
    assert torch.equal(pruned.mask[:, 3], torch.ones(6, dtype=torch.bool))
    largest = weight[:, :3].abs().argmax(1)
    assert torch.equal(pruned.mask[:, :3], torch.nn.functional.one_hot(largest, 3).bool())
    few = sparsegpt.prune_linear(weight, gram, Unstructured(0.1))
    assert torch.equal(few.mask[:, dead].T, keep_largest(weight[:, dead].T.abs(), 10))
    live = [column for column in range(16) if column not in dead]
    assert torch.equal(few.weight[:, live], weight[:, live])


PATTERNS = st.one_of(
    st.floats(0.01, 0.99).map(Unstructured),
    st.sampled_from([(1, 2), (1, 4), (2, 4), (3, 4), (4, 8), (7, 8)]).map(lambda nm: SemiStructured(*nm)),
)


@settings(deadline=None, max_examples=60)
@given(pattern=PATTERNS, dead=st.sets(st.integers(0, 15), max_size=15), seed=st.integers(0, 99))
def test_zeros_are_exact_whatever_inputs_are_dead(pattern, dead, seed):
    weight, gram = layer(6, 16, seed=seed)
    gram[list(dead)] = 0
    gram[:, list(dead)] = 0
    for steps in (0, 3):
        pruned = prune_layer(weight, gram, LayerSettings(pattern, block_size=8, refit_steps=steps))
        assert pruned.zeros == zero_count(pattern.ratio, weight.numel())
        assert satisfies(pruned.mask, pattern)
        assert torch.equal(pruned.weight == 0, ~pruned.mask)
        kept = pruned.mask[:, list(dead)]
        assert torch.equal(pruned.weight[:, list(dead)], weight[:, list(dead)] * kept)
