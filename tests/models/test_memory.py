"""How much memory may be used."""

import pytest
import torch

from llmprune.choices import DeviceMap
from llmprune.errors import TargetError
from llmprune.models.compute import Compute, choose_compute
from llmprune.models.memory import MemoryBudget, parse_memory_budget, still_free
from llmprune.ranks.group import Ranks


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


@pytest.fixture
def two_gpus(monkeypatch):
    """Two GPUs with 10,000 bytes free; of 700 reserved ones 200 are in use."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10_000 + device.index, 20_000))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)


def test_what_torch_reserved_on_a_gpu_and_does_not_use_is_free(two_gpus):
    assert Compute(torch.device("cuda:0")).free_bytes() == int(0.9 * 10_500)
    assert Compute(torch.device("cuda:0"), budget=MemoryBudget(1_000)).free_bytes() == 800


def test_a_model_that_is_spread_takes_all_gpus_and_the_host(two_gpus):
    spread = Compute(torch.device("cuda:0"), budget=MemoryBudget(1_000, 1), device_map=DeviceMap.AUTO)
    assert spread.memory_map() == {0: 800, 1: 800, "cpu": 0}
    assert spread.free_whole_bytes() == 1_600
    assert Compute(torch.device("cuda:0"), budget=MemoryBudget(1_000)).free_whole_bytes() == 800


def test_a_model_that_is_spread_where_there_is_no_gpu_takes_the_host(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert Compute(torch.device("cpu"), budget=MemoryBudget(1, 10**15)).memory_map() == {"cpu": 0}


def test_each_rank_computes_on_a_gpu_of_its_own_and_alone_on_the_one_that_was_typed():
    ranks = Ranks(rank=3, size=4, local_rank=1)
    assert Compute(torch.device("cuda:0"), ranks=ranks).here().device == torch.device("cuda:1")
    for same in (Compute(torch.device("cpu"), ranks=ranks), Compute(torch.device("cuda:2"))):
        assert same.here() is same
