"""Rules about indices and depth, said anew: what is left keeps its kinds, or the fields stay as they were."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprune.models.index_rules import said_anew

PERIOD = ("attn_layer_period", "attn_layer_offset")
INTERVAL = ("moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval")
depths = st.integers(2, 12)


@st.composite
def removals(draw):
    depth = draw(depths)
    kept = draw(st.lists(st.integers(0, depth - 1), min_size=1, max_size=depth, unique=True))
    return depth, sorted(kept)


def attention(fields, depth):
    return [block % fields[PERIOD[0]] == fields[PERIOD[1]] for block in range(depth)]


def experts(fields, depth):
    start, end, interval = (fields[name] for name in INTERVAL)
    end = depth - 1 if end == -1 else end
    return [start <= block <= end and (block + 1) % interval == 0 for block in range(depth)]


@given(removals(), st.integers(1, 8), st.data())
def test_a_period_that_is_said_anew_gives_every_kept_block_its_kind(removal, period, data):
    depth, kept = removal
    fields = dict(zip(PERIOD, (period, data.draw(st.integers(0, period - 1))), strict=True))
    new = said_anew(fields, depth=depth, kept=kept)
    if new:
        assert attention(new, len(kept)) == [attention(fields, depth)[block] for block in kept]
        assert new[PERIOD[1]] < new[PERIOD[0]]


@given(removals(), st.integers(0, 12), st.integers(-1, 12), st.integers(1, 5))
def test_an_interval_that_is_said_anew_gives_every_kept_block_its_kind(removal, start, end, interval):
    depth, kept = removal
    fields = dict(zip(INTERVAL, (start, end, interval), strict=True))
    new = said_anew(fields, depth=depth, kept=kept)
    if new:
        assert experts(new, len(kept)) == [experts(fields, depth)[block] for block in kept]


@given(removals(), st.integers(1, 8))
def test_a_whole_period_can_always_go(removal, period):
    depth, _ = removal
    fields = dict(zip(PERIOD, (period, period - 1), strict=True))
    kept = list(range(depth)) + list(range(depth + period, depth + 2 * period))
    assert said_anew(fields, depth=depth + 2 * period, kept=kept) == fields


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        ([1, 2, 4, 5], (2, 0)),  # attention was 1 and 4: now 0 and 2 ...
        ([0, 1, 3, 4], (2, 1)),  # ... or 1 and 3
        ([0, 2, 3, 5], (5, 4)),  # none is left, and none of four blocks has the index 4
        ([1, 4], (1, 0)),  # all are
        ([0, 1, 2, 3, 4, 5], (3, 1)),
    ],
)
def test_jambas_period_by_hand(kept, expected):
    fields = {"attn_layer_period": 3, "attn_layer_offset": 1}
    new = said_anew(fields, depth=6, kept=kept)
    assert attention(new, len(kept)) == [block in (1, 4) for block in kept]
    assert (new[PERIOD[0]], new[PERIOD[1]]) == expected


def test_a_pattern_that_no_period_has_leaves_the_fields_as_they_were():
    assert said_anew({"attn_layer_period": 2, "attn_layer_offset": 0}, depth=6, kept=[0, 2, 3]) == {}


def test_ernies_experts_are_counted_down():
    fields = dict(zip(INTERVAL, (2, -1, 1), strict=True))
    assert said_anew(fields, depth=6, kept=[0, 2, 3, 4, 5]) == dict(zip(INTERVAL, (1, 4, 1), strict=True))
    assert said_anew(fields, depth=6, kept=[0, 1]) == fields  # no block of experts is left, and none is meant


def test_repeated_kinds_are_written_out():
    new = said_anew({"block_types": ["recurrent", "recurrent", "attention"]}, depth=8, kept=[0, 2, 3, 5, 7])
    assert new == {"block_types": ["recurrent", "attention", "recurrent", "attention", "recurrent"]}


def test_a_scale_for_each_root_of_the_depth_is_kept():
    new = said_anew({"scale_depth": 1.4}, depth=62, kept=range(50))
    assert new["scale_depth"] / math.sqrt(50) == pytest.approx(1.4 / math.sqrt(62), rel=1e-15)


@pytest.mark.parametrize("fields", [{}, {"attn_layer_period": None, "attn_layer_offset": 1}, {"block_types": []}])
def test_a_config_without_such_rules_gets_no_field(fields):
    assert said_anew(fields, depth=4, kept=[0, 1, 3]) == {}
