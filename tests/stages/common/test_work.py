"""Work is counted by kind, and each kind has its time on a device."""

import pytest
import torch

from llmprune.stages.common.work import Work, WorkTimes, time_work


def test_work_adds_up_and_takes_the_time_of_its_kinds():
    work = Work(products=10, numbers=4) + Work(calls=3).times(2)
    assert work == Work(products=10, numbers=4, calls=6)
    times = WorkTimes(products=1.0, rounded=0.5, numbers=10.0, calls=100.0)
    assert times.of(work + Work(rounded=2, narrow=8)) == 10 + 40 + 600 + 1


def test_each_kind_is_timed(device):
    times = time_work(device, torch.bfloat16)
    assert all(0 < seconds < 1 for seconds in vars(times).values())


@pytest.mark.parametrize("count", [0, 1, 2.5])
def test_work_of_some_blocks(count):
    assert Work(2, 4, 6, 8, 10).times(count) == Work(*(count * one for one in (2, 4, 6, 8, 10)))
