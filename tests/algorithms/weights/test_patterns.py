import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmprune.algorithms.weights.patterns import (
    SemiStructured,
    Unstructured,
    check_fits,
    keep_largest,
    parse_pattern,
    parse_sparsity,
    select_mask,
    zero_count,
)
from llmprune.errors import TargetError
from tests.algorithms.problems import normal, satisfies


@pytest.mark.parametrize(
    ("text", "ratio"),
    [
        ("0.7", 0.7),
        ("70%", 0.7),
        (" 12.5% ", 0.125),
        ("0", 0.0),
        ("0%", 0.0),
        (".5", 0.5),
        ("+0.5", 0.5),
        ("70 %", 0.7),
        ("5e-1", 0.5),
    ],
)
def test_parse_sparsity(text, ratio):
    assert parse_sparsity(text) == Unstructured(ratio)


# Numbers that Python reads, or takes long over, and nobody means.
STRANGE = [
    *("nan", "NaN", "-nan", "inf", "-Infinity", "1e400", "1e999999999", "1e-999999999", "1_0", "0x1", "0b1", "\u0661"),
    *("\u0660.\u0665", "\u0665\u0660%", "\xb2", "9" * 5000, "0." + "3" * 5000, "5" + "0" * 5000 + "%", " " * 5000),
]


def refused_in_one_short_sentence(parse, text):
    began = time.perf_counter()
    with pytest.raises(TargetError) as caught:
        parse(text)
    message = str(caught.value)
    assert time.perf_counter() - began < 1
    assert message.count(". ") == 0
    assert message.endswith(".")
    assert len(message) < 200


@pytest.mark.parametrize(
    "text", ["1", "1.0", "100%", "-0.1", "-5%", "-0", "70", "", "%", ".", "half", "0.5.1", "50%%", "2:4", *STRANGE]
)
def test_parse_sparsity_refuses(text):
    refused_in_one_short_sentence(parse_sparsity, text)


@pytest.mark.parametrize(("text", "pattern"), [("2:4", (2, 4)), ("4:8", (4, 8)), ("3:4", (3, 4)), (" 1:2 ", (1, 2))])
def test_parse_pattern(text, pattern):
    assert parse_pattern(text) == SemiStructured(*pattern)


@pytest.mark.parametrize("text", ["0:4", "5:4", "4:4", "x:y", "2:", ":4", "2:4:8", "-2:4", "2.0:4", "0:0", "0.5", ""])
def test_parse_pattern_refuses(text):
    refused_in_one_short_sentence(parse_pattern, text)


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("form", ["{}:4", "2:{}", "{0}:{0}", "{}"])
def test_parse_pattern_refuses_strange_numbers(strange, form):
    refused_in_one_short_sentence(parse_pattern, form.format(strange))


def test_patterns_print_as_they_are_typed():
    assert str(parse_pattern("2:4")) == "2:4"
    assert str(parse_sparsity("0.7")) == "70%"
    assert SemiStructured(3, 4).ratio == 0.75


def test_groups_must_divide_the_inputs():
    check_fits(SemiStructured(2, 4), 8)
    check_fits(Unstructured(0.5), 7)
    with pytest.raises(TargetError, match="multiple of 4 inputs, and there are 10"):
        check_fits(SemiStructured(2, 4), 10)


@given(st.integers(1, 9), st.integers(1, 30), st.floats(0, 0.99), st.sampled_from(["matrix", "row"]))
def test_unstructured_masks_are_exact(rows, columns, ratio, scope):
    scores = normal(rows, columns, seed=rows)
    mask = select_mask(scores, Unstructured(ratio), scope=scope)
    assert int((~mask).sum()) == zero_count(ratio, rows * columns)
    assert satisfies(mask, Unstructured(ratio))
    if scope == "row":
        zeros = (~mask).sum(1)
        assert int(zeros.max() - zeros.min()) <= 1


@given(st.integers(1, 5), st.integers(1, 6), st.sampled_from([(1, 2), (2, 4), (3, 4), (4, 8)]))
def test_semi_structured_masks_are_exact_in_every_group(rows, groups, pattern):
    pattern = SemiStructured(*pattern)
    mask = select_mask(normal(rows, groups * pattern.m, seed=groups), pattern)
    assert torch.all((~mask).view(rows, groups, pattern.m).sum(2) == pattern.n)
    assert satisfies(mask, pattern)


def test_the_smallest_go():
    scores = torch.tensor([[3.0, 1.0, 2.0, 4.0], [8.0, 7.0, 5.0, 6.0]])
    assert select_mask(scores, Unstructured(0.5)).tolist() == [[False] * 4, [True] * 4]
    by_row = [[True, False, False, True], [True, True, False, False]]
    assert select_mask(scores, Unstructured(0.5), scope="row").tolist() == by_row
    assert select_mask(scores, SemiStructured(2, 4)).tolist() == by_row


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.data())
def test_ties_go_in_index_order(values, data):
    zeros = data.draw(st.integers(0, len(values)))
    mask = keep_largest(torch.tensor(values, dtype=torch.float32), zeros)
    order = sorted(range(len(values)), key=lambda index: (values[index], index))
    assert sorted(order[:zeros]) == (~mask).nonzero().flatten().tolist()
