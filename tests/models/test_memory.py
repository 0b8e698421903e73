"""How much memory may be used."""

import pytest
import torch

from llmprune.errors import TargetError
from llmprune.models.compute import Compute, choose_compute
from llmprune.models.memory import MemoryBudget, parse_memory_budget, still_free


@pytest.mark.parametrize(
    ("typed", "budget"),
    [
        (None, MemoryBudget()),
        ("12GB", MemoryBudget(12 * 10**9)),
        ("2GiB,48GB", MemoryBudget(2 * 2**30, 48 * 10**9)),
    ],
)
def test_one_size_or_one_for_the_host_too(typed, budget):
    assert parse_memory_budget(typed) == budget
    assert choose_compute("cpu", memory_budget=typed).budget == budget


@pytest.mark.parametrize("typed", ["", "much", "0GB", "1GB,", "1GB,2GB,3GB"])
def test_anything_else_is_refused(typed):
    with pytest.raises(TargetError):
        parse_memory_budget(typed)


@pytest.mark.parametrize(
    ("free", "used", "budget", "left"),
    [(1000, 50, None, 900), (1000, 50, 500, 450), (1000, 50, 2000, 900), (1000, 600, 500, 0)],
)
def test_what_is_used_counts_and_a_margin_stays_free(free, used, budget, left):
    assert still_free(free, used, budget) == left


def test_the_host_is_the_device_of_the_cpu():
    compute = Compute(torch.device("cpu"), budget=MemoryBudget(10**15, 10**15))
    assert compute.free_host_bytes() == 0
    assert 0 < compute.free_bytes() < 10**15
    assert Compute(torch.device("cpu"), budget=MemoryBudget(1)).free_bytes() == 0
