"""Errors on their way from one rank to another."""

from copy import deepcopy

import torch

from llmprune.errors import ChangedError, LostRankError
from llmprune.ranks.failures import failed_on, failure


class ForeignError(Exception):
    """An error of another library, which cannot be made anew from what it says."""

    def __init__(self, code, *, where):
        super().__init__(f"{code} at {where}")


def sent(error):
    try:
        raise error
    except Exception as raised:
        return deepcopy(failure(raised, "rank 1 of 2")).error  # by what it is sent by, too


def test_errors_of_ours_are_the_same_on_another_rank():
    error = sent(ChangedError("model was changed", advice="get it again"))
    assert (type(error), str(error), error.found) == (
        ChangedError,
        "model was changed; get it again",
        "model was changed",
    )
    assert failed_on(error) == "rank 1 of 2: "
    assert sent(LostRankError("Rank 1 died.", speaks=True)).speaks


def test_errors_of_python_and_torch_are_the_same_and_others_keep_their_words():
    assert sent(FileNotFoundError(2, "No such file", "a.txt")).filename == "a.txt"
    assert type(sent(torch.OutOfMemoryError("too much"))) is torch.OutOfMemoryError
    foreign = sent(ForeignError(3, where="home"))
    assert (type(foreign), str(foreign)) == (RuntimeError, "ForeignError: 3 at home")
    assert "rank 1 of 2: Traceback" in foreign.__notes__[0]


def test_an_error_of_this_rank_names_none():
    assert failed_on(ValueError("no")) == ""
