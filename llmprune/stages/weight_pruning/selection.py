"""Which matrices of a model are to be pruned: ``--layers``, ``--parts`` and ``--exclude``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch

from llmprune.algorithms.weights.patterns import Pattern, check_fits
from llmprune.choices import LAYERS, Part
from llmprune.errors import TargetError
from llmprune.models.block_linears import LinearSlot
from llmprune.models.decoder import Decoder
from llmprune.models.open_block import block_matrices


@dataclass(frozen=True)
class Selection:
    """What was asked for, not yet compared with a model.

    Attributes:
        layers: ``all``, ``first-half``, or blocks: ``0-15``, ``0,3,8-11``.
        parts: parts of a block.
        exclude: shell patterns; a matrix whose name in the checkpoint, without ``.weight``, fits one stays dense.
    """

    layers: str = LAYERS
    parts: frozenset[Part] = frozenset({Part.ATTENTION, Part.FFN})
    exclude: tuple[str, ...] = ()

    def takes(self, slot: LinearSlot) -> bool:
        """Whether a matrix of a selected block is to be pruned."""
        name = slot.tensor.removesuffix(".weight")
        return slot.part in self.parts and not any(fnmatch(name, pattern) for pattern in self.exclude)


def parse_parts(text: str) -> frozenset[Part]:
    """Read ``attention,ffn``.

    Raises:
        TargetError: nothing, or something else.
    """
    named = [part.strip() for part in text.split(",") if part.strip()]
    known = [part for part in Part if part in named]
    if not named or len(known) != len(set(named)):
        raise TargetError(f"'{text}' names parts that no block has; type `parts` with any of {', '.join(Part)}.")
    return frozenset(known)


def parse_layers(text: str, *, depth: int) -> tuple[int, ...]:
    """The blocks that ``all``, ``first-half`` (the paper's protocol, rounded down) or ``0-15`` mean.

    Raises:
        TargetError: no such list, or blocks that the model does not have.
    """
    if text == "all":
        return tuple(range(depth))
    if text == "first-half":
        return tuple(range(max(1, depth // 2)))
    blocks = sorted({block for part in text.split(",") for block in _span(part.strip(), text)})
    if blocks[-1] >= depth:
        raise TargetError(f"`layers={text}` names block {blocks[-1]}, but the model has blocks 0 to {depth - 1}.")
    return tuple(blocks)


def check_shapes(decoder: Decoder, blocks: Iterable[int], selection: Selection, pattern: Pattern) -> int:
    """Check, before anything is computed, that a pattern fits every selected matrix; return the most inputs of one.

    Raises:
        TargetError: it does not fit one (named), or no matrix is selected at all.
    """
    widest = 0
    for block in blocks:
        for slot in block_matrices(decoder, block):
            if selection.takes(slot):
                _check_fits(pattern, slot)
                widest = max(widest, slot.in_features)
    if not widest:
        raise TargetError("No matrix is left to prune; look at `layers`, `parts` and `exclude`.")
    return widest


def _check_fits(pattern: Pattern, slot: LinearSlot) -> None:
    try:
        check_fits(pattern, slot.in_features)
    except TargetError as error:
        alike = re.sub(r"\.[0-9]+(?=\.)", ".*", slot.tensor.removesuffix(".weight"))  # in all blocks, of all experts
        raise TargetError(f"{slot.tensor}: {error} Leave it out: `exclude='{alike}'`") from None


def _span(part: str, text: str) -> range:
    match = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", part)
    if match is None or (match[2] and int(match[2]) < int(match[1])):
        raise TargetError(f"`layers={text}` is no list of blocks; type all, first-half, 0-15 or 0,3,8-11.")
    return range(int(match[1]), int(match[2] or match[1]) + 1)
