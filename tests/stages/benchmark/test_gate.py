"""Conditions on a benchmark's metrics: a grammar of three words, read and never evaluated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprune.artifacts.records.estimates import Estimate
from llmprune.errors import TargetError
from llmprune.stages.benchmark.gate import parse_condition, require_metrics


@pytest.mark.parametrize(
    ("text", "value", "failed"),
    [
        ("ppl_ratio>1.5", 1.6, True),
        ("ppl_ratio>1.5", 1.5, False),
        (" ppl_ratio >= 1.5 ", 1.5, True),
        ("ppl_ratio<1e-3", 0.0005, True),
        ("ppl_ratio <= -.5", -0.5, True),
        ("ppl_ratio<+2.", 3.0, False),
    ],
)
def test_conditions(text, value, failed):
    check = parse_condition(text).check({"ppl_ratio": Estimate(value=value, interval=(0.0, 9.0))})
    assert (check.condition, check.value, check.failed) == (text.strip(), value, failed)


def test_a_metric_may_be_called_like_a_data_set():
    assert parse_condition("ppl_ratio.owner/name:config:test:text>2").metric == "ppl_ratio.owner/name:config:test:text"


@pytest.mark.parametrize("text", ["", "ppl", "ppl>", ">1", "ppl=1", "ppl==1", "ppl>1.5x", "ppl>nan", "ppl > 1 > 2"])
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(TargetError, match="type for example `fail_if="):
        parse_condition(text)


@given(st.text(max_size=40))
def test_whatever_is_typed_is_a_condition_or_refused(text):
    try:
        assert parse_condition(text).operator in (">", "<", ">=", "<=")
    except TargetError as error:
        assert "`fail_if" in str(error)


def test_an_unknown_metric_is_refused_with_those_there_are():
    require_metrics([parse_condition("ppl>1")], ["ppl", "ppl_ratio"])
    with pytest.raises(TargetError, match=r"no 'pll_ratio'. Did you mean ppl_ratio\? It measures ppl, ppl_ratio\."):
        require_metrics([parse_condition("pll_ratio>1")], ["ppl", "ppl_ratio"])
