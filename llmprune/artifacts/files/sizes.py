"""Byte counts as people write and read them."""

import re
from decimal import Decimal

from llmprune.errors import TargetError

_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", start=1)}
_UNITS |= {f"{prefix}IB": 1024**power for power, prefix in enumerate("KMGT", start=1)}
_SIZE = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)\s*", re.ASCII)


def parse_size(size: str | int) -> int:
    """Turn ``"5GB"``, ``"500MB"``, ``"2GiB"`` or a number of bytes into bytes.

    GB is 10**9 bytes and GiB 2**30, as in Hugging Face's ``max_shard_size``; case does not matter.

    Raises:
        TargetError: not a size, an unknown unit, or less than one byte.
    """
    match = _SIZE.fullmatch(str(size))
    if match is None or match[2].upper() not in _UNITS:
        raise TargetError(f'{str(size)[:40]!r} is not a size; write it like "5GB", "500MB" or "2GiB".')
    num_bytes = int(Decimal(match[1]) * _UNITS[match[2].upper()])
    if num_bytes < 1:
        raise TargetError(f'The size {str(size)[:40]!r} is less than one byte; write it like "5GB" or "500MB".')
    return num_bytes


def format_size(num_bytes: int) -> str:
    """Bytes for people, in powers of 1000: ``"512 bytes"``, ``"4.3 GB"``."""
    if num_bytes < 1000:
        return f"{num_bytes} bytes"
    size = float(num_bytes)
    for unit in ("kB", "MB", "GB", "TB"):
        size /= 1000
        if size < 999.95 or unit == "TB":
            break
    return f"{size:.1f} {unit}"
