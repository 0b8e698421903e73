"""Weights out of nothing: right in size and spread, the same every time, shared where they were shared."""

import torch
from torch import nn

from llmprune.models.random_weights import RandomWeights

CPU = torch.device("cpu")


def test_matrices_neither_grow_nor_shrink_what_passes_them_and_vectors_are_positive():
    weights = RandomWeights(CPU)
    matrix = weights.of(torch.Size((1200, 1000)), torch.float32)  # more numbers than there are in the pool
    assert abs(float(matrix.var()) * 1000 - 1) < 0.01
    assert len({row.sum().item() for row in matrix}) == 1200
    vector = weights.of(torch.Size((1000,)), torch.bfloat16)
    assert vector.dtype == torch.bfloat16
    assert 0.5 <= float(vector.min()) < float(vector.max()) <= 1.5


def test_they_are_the_same_every_time_and_others_for_another_start():
    one, same, other = (RandomWeights(CPU).of(torch.Size((5, 7)), torch.float32, start=start) for start in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_every_parameter_is_filled_but_the_ones_to_leave_and_shared_ones_stay_shared():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
        model[0].register_buffer("correction", torch.zeros(4))
    model[2].register_buffer("table", torch.zeros(4))
    model[2].weight = model[0].weight
    RandomWeights(CPU).fill(model, besides=model[1].parameters())
    assert [parameter.is_meta for parameter in model.parameters()] == [False, False, True, True, False]
    assert model[2].weight is model[0].weight
    assert not torch.equal(model[0].weight, model[2].bias.expand(4, 4))
    assert not model[0].correction.is_meta
    assert torch.equal(model[2].table, torch.zeros(4))
