"""Several processes, each with some of the tokens, prune as one with all of them: in float64, to nearly all digits.

A refit of more steps than a row has weights goes on behind its solution, and makes 1e-8 of the last digits.
"""

import pytest
import torch

from llmprune.algorithms.feed_forward.activation import RELU
from llmprune.algorithms.feed_forward.sparsellm import FfnSettings, prune_ffn
from llmprune.algorithms.processes import ALONE, owners
from llmprune.algorithms.weights.gram import CrossAccumulator, GramAccumulator
from llmprune.algorithms.weights.layer import LayerMethod, LayerSettings
from llmprune.algorithms.weights.patterns import SemiStructured, Unstructured
from llmprune.algorithms.weights.shared_factors import shared_factors
from llmprune.algorithms.weights.shared_inputs import LayerTask, SharedInputs
from llmprune.choices import Reference
from llmprune.errors import NumericalError
from tests.algorithms.problems import chunks_of, gated_ffn, plain_ffn
from tests.algorithms.processes import by_threads

FFNS = {
    "gated": gated_ffn(12, 32, seed=0, dtype=torch.float64),
    "plain": plain_ffn(12, 32, seed=3, activation=RELU, dtype=torch.float64),
}


def assert_same(one, other):
    assert torch.equal(one.mask, other.mask)
    torch.testing.assert_close(one.weight, other.weight, rtol=1e-5, atol=1e-6)  # float32, in another order
    assert one.error == pytest.approx(other.error, rel=1e-7)
    assert (one.damping, one.widened) == (other.damping, other.widened)


@pytest.mark.parametrize("reference", Reference)
@pytest.mark.parametrize("ffn", FFNS.values(), ids=FFNS)
def test_an_ffn(ffn, reference):
    chunks = chunks_of(ffn, seed=5)
    layer = LayerSettings(Unstructured(0.6))
    alone = prune_ffn(ffn, list(chunks), FfnSettings(layer, reference=reference))

    def work(thread):
        own = [chunks[place] for place in thread.share(range(len(chunks)))]
        return prune_ffn(ffn, own, FfnSettings(layer, reference=reference, processes=thread))

    for found in by_threads(2, work):
        assert found.best.index == alone.best.index
        assert found.errors == pytest.approx(alone.errors, rel=1e-7)
        assert found.best.energy == pytest.approx(alone.best.energy, rel=1e-12)
        assert_same(found.best.up, alone.best.up)
        assert_same(found.best.down, alone.best.down)


@pytest.mark.parametrize("pattern", [SemiStructured(2, 4), Unstructured(0.6)], ids=str)
@pytest.mark.parametrize("method", LayerMethod)
@pytest.mark.parametrize("size", [2, 5])
def test_layers_with_the_same_inputs(method, size, pattern):
    """Three layers, two of them with targets, by fewer and by more processes; a layer of 3 rows has less than that."""
    generator = torch.Generator().manual_seed(0)
    inputs, *weights = (torch.randn(rows, 16, dtype=torch.float64, generator=generator) for rows in (80, 8, 3, 6))
    cross = [weight @ inputs.T @ (inputs + 0.1 * inputs.flip(0)) for weight in weights]
    tasks = [LayerTask(weights[0]), *(LayerTask(weights[at], lambda rows, at=at: cross[at][rows]) for at in (1, 2))]
    layer = LayerSettings(pattern, method=method, block_size=5)
    alone = SharedInputs(inputs.T @ inputs, layer, ridge=0.3).prune(tasks)

    def work(thread):
        own = thread.share(range(len(inputs)))
        gram = GramAccumulator().update(inputs[own.start : own.stop]).take(thread)
        return SharedInputs(gram, layer, ridge=0.3, processes=thread).prune(tasks)

    for found in by_threads(size, work):
        for one, other in zip(found, alone, strict=True):
            assert_same(one, other)


def test_sums_of_narrow_tokens_agree_with_those_of_one():
    """Gram matrices and cross moments in float32, to 1e-5; 300 inputs take two panels."""
    rows, outputs = torch.randn(64, 300), torch.randn(64, 7)
    gram, cross = GramAccumulator().update(rows).take(), CrossAccumulator().update(outputs, rows).take()

    def work(thread):
        own = thread.share(range(len(rows)))
        here = slice(own.start, own.stop)
        sums = GramAccumulator().update(rows[here]), CrossAccumulator().update(outputs[here], rows[here])
        own = CrossAccumulator().update(outputs[here], rows[here]).take_rows(thread)
        return [*(one.take(thread) for one in sums), thread.join_rows(own, outputs.shape[1])]

    for found in by_threads(3, work):
        torch.testing.assert_close(found[0], gram, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[1], cross, rtol=1e-5, atol=1e-5)
        assert torch.equal(found[2], found[1])
        assert torch.equal(found[0], found[0].T)


@pytest.mark.parametrize("size", [2, 3])
def test_factors_are_made_by_their_owners(size):
    """Of 600 inputs, whose inverse takes several panels; the first needs more damping than was asked for."""
    basis = torch.linalg.qr(torch.randn(600, 600, dtype=torch.float64)).Q
    gram = basis @ torch.diag(torch.linspace(-0.02, 2, 600, dtype=torch.float64)) @ basis.T
    alone = shared_factors(gram, ALONE, inverse=0.01, solve=0.3)
    assert (alone[0].damping, alone[1].damping) == (0.1, 0.3)

    def work(thread):
        return thread.broadcasts, shared_factors(gram, thread, inverse=0.01, solve=0.3)

    for sent, found in by_threads(size, work):
        assert len(sent) == 2 + size  # two factors, and everybody's columns of the inverse
        assert sent[:2] == [0, 1]  # their owners
        for one, other in zip(found, alone, strict=True):
            assert (one.damping, one.widened) == (other.damping, other.widened)
            assert one.shift == pytest.approx(other.shift, rel=1e-12)
        torch.testing.assert_close(found[0].upper, alone[0].upper)
        torch.testing.assert_close(found[1].lower, alone[1].lower)


def test_owners_have_about_as_much_to_do():
    assert owners([1, 8, 1, 27, 1, 8], 3) == (1, 1, 2, 0, 1, 2)
    assert owners([5, 5], 4) == (0, 1)
    assert owners([], 2) == ()


def test_all_fail_where_the_owner_of_a_factor_fails():
    gram = torch.full((4, 4), float("nan"))

    def work(thread):
        tasks = [LayerTask(torch.ones(4, 4))]
        with pytest.raises(NumericalError, match="holds NaN"):
            SharedInputs(gram, LayerSettings(Unstructured(0.5)), ridge=0.1, processes=thread).prune(tasks)
        return thread.rank

    assert by_threads(2, work) == [0, 1]
