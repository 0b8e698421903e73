"""Rules about indices and depth in a config, said anew for the blocks that are left.

Some configs do not list what their blocks are, but say a rule: every eighth block is attention, experts from block 1
on. After a removal the same fields say what is left where they can. Where they cannot they stay as they are, and
``removability`` refuses what would come of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

# Pairs of fields: blocks whose index leaves the offset when divided by the period are of another kind.
_PERIODS = (("attn_layer_period", "attn_layer_offset"), ("expert_layer_period", "expert_layer_offset"))
# Experts from a first to a last block, in every n-th (ERNIE; -1 is the last of all).
_INTERVAL = ("moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval")
# Kinds of blocks that are repeated until the model is deep enough.
_REPEATED = "block_types"
# Kinds of attention that are repeated, a number of times for each list of them (GPT-Neo).
_EXPANDED = "attention_types"
# Scales that are divided by the root of the depth.
_PER_ROOT_OF_DEPTH = "scale_depth"

Rule = Callable[..., Callable[[int], bool]]
Guess = Callable[[Sequence[bool]], Iterator[tuple[int, ...]]]


def said_anew(fields: Mapping[str, Any], *, depth: int, kept: Sequence[int]) -> dict[str, Any]:
    """The fields of such rules that change, with their new values.

    Args:
        fields: a text config.
        depth: its number of blocks.
        kept: indices of the blocks that stay, in order.
    """
    changed: dict[str, Any] = {}
    for names in _PERIODS:
        changed |= _rule(names, fields, (_periodic, _periods), depth=depth, kept=kept)
    changed |= _rule(_INTERVAL, fields, (_from_to_every, _intervals), depth=depth, kept=kept)
    if isinstance(repeated := fields.get(_REPEATED), list | tuple) and repeated:
        changed[_REPEATED] = [repeated[block % len(repeated)] for block in kept]
    if isinstance(types := fields.get(_EXPANDED), list | tuple):
        kinds = [kind for pattern, times in types for _ in range(times) for kind in pattern]
        changed[_EXPANDED] = [[[kinds[block] for block in kept], 1]]
    if isinstance(scale := fields.get(_PER_ROOT_OF_DEPTH), int | float):
        changed[_PER_ROOT_OF_DEPTH] = scale * math.sqrt(len(kept) / depth)
    return changed


def _rule(
    names: Sequence[str], fields: Mapping[str, Any], how: tuple[Rule, Guess], *, depth: int, kept: Sequence[int]
) -> dict[str, Any]:
    """The first values of a rule's fields, its own before all others, that give the kept blocks their kinds."""
    own = tuple(fields.get(name) for name in names)
    if not all(type(value) is int for value in own):
        return {}
    rule, guesses = how
    wanted = [rule(*own, depth=depth)(block) for block in kept]
    for values in (own, *guesses(wanted)):
        if [rule(*values, depth=len(kept))(block) for block in range(len(kept))] == wanted:
            return dict(zip(names, values, strict=True))
    return {}


def _periodic(period: int, offset: int, *, depth: int) -> Callable[[int], bool]:
    return lambda block: block % period == offset


def _periods(wanted: Sequence[bool]) -> Iterator[tuple[int, int]]:
    longest = len(wanted) + 1  # so long that no block is meant
    return ((period, offset) for period in range(1, longest + 1) for offset in range(period))


def _from_to_every(start: int, end: int, interval: int, *, depth: int) -> Callable[[int], bool]:
    last = depth - 1 if end == -1 else end
    return lambda block: start <= block <= last and (block + 1) % interval == 0


def _intervals(wanted: Sequence[bool]) -> Iterator[tuple[int, int, int]]:
    meant = [block for block, is_meant in enumerate(wanted) if is_meant] or [len(wanted)]
    return ((meant[0], meant[-1], interval) for interval in range(1, len(wanted) + 1))
