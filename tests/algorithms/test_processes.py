"""The only process has everything; rows that several processes have are put together in their order."""

import pytest
import torch

from llmprune.algorithms.processes import ALONE, Rows
from llmprune.errors import LlmpruneError
from tests.algorithms.processes import by_threads


def test_the_only_process_has_everything_and_changes_nothing():
    assert (ALONE.rank, ALONE.size) == (0, 1)
    assert ALONE.share(range(2, 7)) == range(2, 7)
    tensor = torch.tensor([1.0, 2.0])
    assert ALONE.sum(tensor) is tensor and ALONE.broadcast(tensor, 0) is tensor
    assert tensor.tolist() == [1.0, 2.0]
    assert ALONE.agree("done") == ["done"]


def test_the_error_of_the_only_process_is_raised():
    error = LlmpruneError("It fails.")
    with pytest.raises(LlmpruneError) as raised:
        ALONE.agree(error)
    assert raised.value is error


@pytest.mark.parametrize(("rows", "size"), [(5, 2), (7, 3), (2, 3), (4, 2)])
@pytest.mark.parametrize("columns", [(), (3,)])
def test_every_process_gets_all_rows_in_order(rows, size, columns):
    whole = torch.arange(rows * 3.0).view(rows, 3) if columns else torch.arange(rows)

    def work(thread):
        divided = Rows(rows, thread)
        return divided.join(whole[divided.here].clone())

    for found in by_threads(size, work):
        assert found.dtype == whole.dtype
        assert torch.equal(found, whole)


def test_the_rows_of_the_only_process_are_handed_back():
    part = torch.ones(4, 2)
    assert Rows(4, ALONE).join(part) is part
