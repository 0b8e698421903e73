"""Removal targets as they are typed: a share of the blocks (or experts), or a number."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from llmprune.errors import TargetError

# Few digits: no block count has more, and an integer of thousands takes long to read and to print.
_TARGET = re.compile(r"(?P<number>[+-]?(?=\.?[0-9])[0-9]{0,9}(\.[0-9]{0,20})?)\s*(?P<percent>%)?")


def removal_count(target: str, *, num_blocks: int, protect_first: int, protect_last: int) -> int:
    """How many blocks a target removes: ``20%`` and ``0.2`` are rounded up, an integer is itself.

    Raises:
        TargetError: not a number, nothing to remove, or nothing left between the protected ends.
    """
    count = target_count(target, total=num_blocks, noun="block")
    target = target.strip()
    removable = num_blocks - protect_first - protect_last
    if count >= removable:
        advice = "lower the target" if removable > 1 else "protect fewer"
        raise TargetError(
            f"A target of {target} removes {count} of {num_blocks} blocks, but with {protect_first} first and "
            f"{protect_last} last protected at most {max(removable - 1, 0)} can go; {advice}."
        )
    return count


def target_count(target: str, *, total: int, noun: str) -> int:
    """How many of ``total`` things, called ``noun``, a target removes: shares are rounded up, an integer is itself.

    Raises:
        TargetError: not a number, or nothing to remove.
    """
    expected = f"type a share such as 20% or 0.2, or a number of {noun}s such as 6"
    target = target.strip()
    match = _TARGET.fullmatch(target)
    if match is None:
        raise TargetError(f"{target!r:.50} is not a removal target; {expected}.")
    number = Fraction(match["number"])  # exact: 0.07 of 100 is 7, where floats would round up to 8
    if match["percent"]:
        number /= 100
    is_share = bool(match["percent"]) or "." in match["number"]
    if is_share and not 0 < number < 1:
        raise TargetError(f"A target of {target} is not between 0% and 100%; {expected}.")
    count = math.ceil(number * total) if is_share else int(number)
    if count < 1:
        raise TargetError(f"A target of {target} removes no {noun}; {expected}.")
    return count
