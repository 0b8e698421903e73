"""What is worked out slab by slab is what is worked out at once, and memory holds two matrices like X X^T at a time."""

import pytest
import torch

from llmprune.algorithms.feed_forward.activation import SILU
from llmprune.algorithms.feed_forward.network import FfnChunk, GatedFfn, Linear, first_chunk
from llmprune.algorithms.feed_forward.sparsellm import FfnSettings, prune_ffn
from llmprune.algorithms.feed_forward.token_sums import HiddenMoments
from llmprune.algorithms.weights import factor as factor_module
from llmprune.algorithms.weights import slabs as slabs_module
from llmprune.algorithms.weights.factor import cholesky, factorise
from llmprune.algorithms.weights.layer import LayerMethod, LayerSettings
from llmprune.algorithms.weights.least_squares import ridge_towards
from llmprune.algorithms.weights.patterns import Unstructured
from llmprune.algorithms.weights.shared_inputs import LayerTask, SharedInputs
from llmprune.algorithms.weights.slabs import slabs
from llmprune.choices import Reference
from llmprune.models.footprint import most_alive
from tests.algorithms.problems import activations, chunks_of, gated_ffn, layer, normal

HALF = Unstructured(0.5)
WIDE = 1024
SQUARE = 4 * WIDE**2  # bytes


@pytest.fixture(params=[1, 3, 7])
def few_rows(request, monkeypatch):
    """So many rows of 12 columns at a time."""
    monkeypatch.setattr(slabs_module, "SLAB", 12 * request.param + 5)


def test_slabs_have_every_row_once(few_rows):
    matrix = torch.arange(10).repeat(12, 1).T
    assert torch.equal(torch.cat([matrix[rows] for rows in slabs(matrix)]), matrix)
    assert [rows.stop - rows.start for rows in slabs(torch.empty(2, 99))] == [1, 1]
    assert list(slabs(torch.empty(0, 4))) == []


@pytest.mark.parametrize("method", LayerMethod)
def test_a_layer_is_the_same_in_slabs(method, few_rows, monkeypatch):
    weight, gram = layer(10, 12, seed=0, dtype=torch.float64)
    cross = normal(10, 12, seed=3, dtype=torch.float64) @ gram
    settings = LayerSettings(HALF, method=method, refit_steps=4)

    def pruned():
        (found,) = SharedInputs(gram, settings, ridge=0.1).prune([LayerTask(weight, lambda rows: cross[rows])])
        return found

    parts = pruned()
    monkeypatch.undo()
    whole = pruned()
    assert torch.equal(parts.mask, whole.mask)
    torch.testing.assert_close(parts.weight, whole.weight)
    assert (parts.error, parts.energy) == pytest.approx((whole.error, whole.energy))


def test_targets_and_errors_are_the_same_in_slabs(few_rows, monkeypatch):
    weight, gram = layer(10, 12, seed=0, dtype=torch.float64)
    cross = normal(10, 12, seed=3, dtype=torch.float64)
    moments, factor = HiddenMoments(gram, cross, 1e6, 2.0), cholesky(gram)

    def found():
        return ridge_towards(weight, cross, gram, factor), moments.output_error(weight).error

    target, error = found()
    monkeypatch.undo()
    torch.testing.assert_close(target, found()[0])
    assert error == pytest.approx(found()[1])


@pytest.mark.parametrize("method", LayerMethod)
def test_weights_that_are_stored_wider_than_what_is_solved(method):
    """A checkpoint in float64 that is run in float32: targets and Gram matrix are float32, the weights stay float64."""
    weight, gram = layer(10, 12, seed=0)
    cross, settings = weight @ gram, LayerSettings(HALF, method=method, refit_steps=4)
    wide, narrow = (
        SharedInputs(gram, settings, ridge=0.1).prune([LayerTask(stored, lambda rows: cross[rows])])[0]
        for stored in (weight.double(), weight)
    )
    assert (wide.weight.dtype, narrow.weight.dtype) == (torch.float64, torch.float32)
    assert torch.equal(wide.mask, narrow.mask)
    torch.testing.assert_close(wide.weight.float(), narrow.weight)


@pytest.mark.parametrize("made", [factorise, cholesky])
def test_a_factor_takes_the_place_of_one_matrix(made):
    _, gram = layer(1, WIDE, seed=0)
    assert most_alive(lambda: made(gram)) < 1.6 * SQUARE


def test_targets_are_made_before_masks_ask_for_another_factor():
    weight, gram = layer(8, WIDE, seed=0)
    tasks = [LayerTask(weight, lambda rows: (weight @ gram)[rows])]
    assert most_alive(lambda: SharedInputs(gram, LayerSettings(HALF), ridge=0.3).prune(tasks)) < 1.8 * SQUARE


@pytest.mark.parametrize("reference", Reference)
def test_an_ffn_takes_two_matrices_of_its_hidden_width(reference):
    ffn = gated_ffn(8, WIDE, seed=0)
    chunks = chunks_of(ffn, tokens=32, seed=1)
    settings = FfnSettings(LayerSettings(HALF), reference=reference, rounds=3)
    assert most_alive(lambda: prune_ffn(ffn, chunks, settings)) < 3 * SQUARE


@pytest.mark.parametrize(("reference", "squares"), [(Reference.DENSE, 6.5), (Reference.PRUNED, 7.7)])
def test_nothing_is_held_that_is_used_up(reference, squares, monkeypatch):
    """An FFN of the proportions of Llama-2-7B's, in bfloat16: the best round, the current one, and what is solved."""
    monkeypatch.setattr(slabs_module, "SLAB", 1 << 14)
    monkeypatch.setattr(factor_module, "_STRETCH", 1 << 10)
    monkeypatch.setattr(factor_module, "_PANEL", 16)
    width, inner = 256, 688
    narrow = [Linear(normal(*shape, seed=place).bfloat16()) for place, shape in enumerate([(inner, width)] * 2)]
    ffn = GatedFfn(narrow[0], narrow[1], Linear(normal(width, inner, seed=2).bfloat16()), SILU)
    made = [first_chunk(ffn, activations(128, width, seed=seed).bfloat16()) for seed in range(2)]
    chunks = [FfnChunk(*(part.bfloat16() for part in (one.inputs, one.outputs, one.up, one.gate))) for one in made]
    settings = FfnSettings(LayerSettings(HALF), reference=reference, rounds=4)
    assert most_alive(lambda: prune_ffn(ffn, chunks, settings)) < squares * 4 * inner**2
