"""How removal targets are read: a share of the blocks, rounded up, or a number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprune.algorithms.blocks.target import removal_count
from llmprune.errors import TargetError


@pytest.mark.parametrize(
    ("target", "blocks", "count"),
    [
        ("20%", 32, 7),
        ("20%", 40, 8),
        ("20%", 80, 16),
        ("0.2", 32, 7),
        (".2", 40, 8),
        ("0.20", 30, 6),
        ("6", 32, 6),
        (" 6 ", 32, 6),
        ("+6", 32, 6),
        ("007", 32, 7),
        ("0.07", 100, 7),  # in floats 0.07 * 100 is more than 7
        ("7%", 100, 7),
        ("12.5%", 32, 4),
        ("12.5 %", 32, 4),
        ("0.01%", 32, 1),
        ("1", 4, 1),
    ],
)
def test_targets(target, blocks, count):
    assert removal_count(target, num_blocks=blocks, protect_first=1, protect_last=1) == count


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("0%", "not between 0% and 100%"),
        ("100%", "not between 0% and 100%"),
        ("120%", "not between 0% and 100%"),
        ("-5%", "not between 0% and 100%"),
        ("0.0", "not between 0% and 100%"),
        ("1.0", "not between 0% and 100%"),
        ("2.5", "not between 0% and 100%"),
        ("6.", "not between 0% and 100%"),
        ("0", "removes no block"),
        ("-3", "removes no block"),
        *(
            (text, "is not a removal target")
            for text in [
                *("", " ", "abc", "%", ".", "1/5", "nan", "inf", "-inf", "1e400", "1e999999999", "5e-1", "1_0"),
                *(
                    "\u0661",
                    "\u0662\u0660%",
                    "\xb2",
                    "0x6",
                    "six",
                    "6 blocks",
                    "20%%",
                    "% 20",
                    "2 0",
                    "9" * 5000,
                    "-" + "9" * 5000,
                    "9" * 5000 + "%",
                    " " * 5000,
                    "NaN%",
                    "0." + "1" * 5000,
                ),
            ]
        ),
        ("999999999", "at most 29 can go"),
        ("30", "removes 30 of 32 blocks, but with 1 first and 1 last protected at most 29 can go"),
        ("99%", "removes 32 of 32 blocks"),
    ],
)
def test_bad_targets_are_refused_with_what_to_type(target, told):
    with pytest.raises(TargetError) as caught:
        removal_count(target, num_blocks=32, protect_first=1, protect_last=1)
    message = str(caught.value)
    assert told in message
    assert "\n" not in message
    assert len(message) < 200
    assert "type a share such as 20%" in message or "lower the target" in message


def test_where_protection_leaves_nothing_the_message_says_so():
    with pytest.raises(TargetError, match="at most 0 can go; protect fewer"):
        removal_count("1", num_blocks=6, protect_first=3, protect_last=3)
    with pytest.raises(TargetError, match="at most 0 can go; protect fewer"):
        removal_count("1", num_blocks=6, protect_first=3, protect_last=2)
    with pytest.raises(TargetError, match="at most 1 can go; lower the target"):
        removal_count("2", num_blocks=6, protect_first=2, protect_last=2)
    assert removal_count("1", num_blocks=6, protect_first=2, protect_last=2) == 1


@given(st.integers(1, 99), st.integers(3, 200))
def test_a_share_is_rounded_up_exactly(percent, blocks):
    expected = -(-percent * blocks // 100)
    for spelled in (f"{percent}%", f"0.{percent:02d}"):
        if expected < blocks:
            assert removal_count(spelled, num_blocks=blocks, protect_first=0, protect_last=0) == expected
        else:
            with pytest.raises(TargetError):
                removal_count(spelled, num_blocks=blocks, protect_first=0, protect_last=0)
