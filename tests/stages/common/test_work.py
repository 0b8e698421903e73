"""Work is counted by kind, and each kind has its time on a device."""

import pytest
import torch

from llmprune.stages.common.work import Work, WorkTimes, time_work


def test_work_adds_up_and_takes_the_time_of_its_kinds():
    work = Work(products=10, numbers=4) + Work(calls=3).times(2)
    assert work == Work(10, 4, 6)
    assert WorkTimes(product=1.0, number=10.0, call=100.0).of(work) == 10 + 40 + 600


def test_each_kind_is_timed(device):
    times = time_work(torch.device(device))
    assert all(0 < seconds < 1 for seconds in vars(times).values())


@pytest.mark.parametrize("count", [0, 1, 2.5])
def test_work_of_some_blocks(count):
    assert Work(2, 4, 6).times(count) == Work(2 * count, 4 * count, 6 * count)
