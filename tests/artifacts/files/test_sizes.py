import pytest

from llmprune.artifacts.files.sizes import format_size, parse_size
from llmprune.errors import TargetError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5GB", 5 * 10**9),
        ("500MB", 500 * 10**6),
        ("1.5 gb", 1_500_000_000),
        ("0.1GB", 10**8),
        ("2GiB", 2 * 2**30),
        ("64kb", 64_000),
        ("7B", 7),
        (" 12345 ", 12345),
        (12345, 12345),
    ],
)
def test_sizes(text: str | int, expected: int):
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    "text", ["", "abc", "GB", "-5GB", "5XB", "5 G B", "1e9", "nan", "inf", "5,0GB", "\u0665GB", True, -1]
)
def test_nonsense(text: str):
    with pytest.raises(TargetError, match=r'is not a size; write it like "5GB"'):
        parse_size(text)


@pytest.mark.parametrize("text", ["0", "0GB", 0, "0.0001kB"])
def test_nothing(text: str):
    with pytest.raises(TargetError, match="less than one byte"):
        parse_size(text)


def test_sizes_for_people():
    assert [format_size(size) for size in (0, 999, 1000, 999_949, 999_950, 4_284_000_000, 10**16)] == [
        "0 bytes",
        "999 bytes",
        "1.0 kB",
        "999.9 kB",
        "1.0 MB",
        "4.3 GB",
        "10000.0 TB",
    ]
