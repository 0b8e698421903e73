import pytest
import torch

from benchmarks.ranks_counted import Counter
from llmprune.algorithms.weights.gram import CrossAccumulator, GramAccumulator, gram_products
from tests.algorithms.problems import normal

CUTS = [1, 7, 50, 130]


@pytest.mark.parametrize("features", [5, 300, 2100])
def test_streaming_is_the_whole_batch_in_float64(features):
    inputs = normal(200, features, seed=0, dtype=torch.float64)
    outputs = normal(200, 3, seed=1, dtype=torch.float64)
    gram, cross = GramAccumulator(), CrossAccumulator()
    for x, z in zip(inputs.tensor_split(CUTS), outputs.tensor_split(CUTS), strict=True):
        gram.update(x)
        cross.update(z, x)
    torch.testing.assert_close(gram.result(), inputs.T @ inputs, rtol=0, atol=1e-10)
    torch.testing.assert_close(cross.result(), outputs.T @ inputs, rtol=0, atol=1e-10)


def test_gram_is_exactly_symmetric():
    matrix = GramAccumulator().update(normal(100, 300, seed=0)).result()
    assert torch.equal(matrix, matrix.T)


@pytest.mark.parametrize("features", [5, 128, 300, 2100])
def test_products_are_counted_as_they_are_made(features):
    chunk = normal(10, features, seed=0)
    with Counter() as counter:
        GramAccumulator().update(chunk)
    (counted, _), *_ = counter.parts
    assert counted == 10 * gram_products(features)


def test_little_more_than_half_of_a_wide_gram_matrix_is_computed():
    assert gram_products(576) < 0.62 * 576**2
    assert gram_products(11008) < 0.54 * 11008**2


def test_bfloat16_chunks_are_summed_in_float32():
    inputs = normal(64, 8, seed=0, dtype=torch.bfloat16)
    accumulator = GramAccumulator()
    for chunk in inputs.split(8):
        accumulator.update(chunk)
    result = accumulator.result()
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, inputs.float().T @ inputs.float())


def test_a_result_does_not_change_with_later_updates():
    chunk = normal(10, 4, seed=0)
    gram, cross = GramAccumulator(), CrossAccumulator()
    before = gram.update(chunk).result(), cross.update(chunk, chunk).result()
    copies = [matrix.clone() for matrix in before]
    gram.update(chunk)
    cross.update(chunk, chunk)
    assert torch.equal(before[0], copies[0])
    assert torch.equal(before[1], copies[1])
    assert torch.equal(chunk, normal(10, 4, seed=0))


def test_nothing_added():
    with pytest.raises(ValueError, match="No chunk"):
        GramAccumulator().result()


def test_what_is_taken_is_the_result_and_the_sum_begins_anew():
    chunk, other = normal(10, 4, seed=0), normal(10, 4, seed=1)
    gram, cross = GramAccumulator().update(chunk), CrossAccumulator().update(other, chunk)
    results = gram.result(), cross.result()
    assert all(torch.equal(one, same) for one, same in zip((gram.take(), cross.take()), results, strict=True))
    torch.testing.assert_close(gram.update(other).result(), other.T @ other)
    torch.testing.assert_close(cross.update(chunk, other).result(), chunk.T @ other)
