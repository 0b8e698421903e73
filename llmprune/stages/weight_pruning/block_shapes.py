"""The shapes of a block's matrices, as far as they decide what pruning takes.

Names: hidden states of width H, an FFN of F hidden units, whose inner matrices have I rows together (gate and up: 2 F).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmprune.choices import Part
from llmprune.models.block_linears import LinearSlot


@dataclass(frozen=True)
class BlockShapes:
    """What counts of a block.

    Attributes:
        width: H.
        matrices: (out, in) of those that are pruned.
        heads: inputs of the attention's last projection; 0: none is pruned.
        inner: I; 0: no FFN is pruned.
        hidden: F.
        other: weights that are run and not pruned.
    """

    width: int
    matrices: tuple[tuple[int, int], ...]
    heads: int
    inner: int
    hidden: int
    other: int

    @classmethod
    def of(cls, slots: Iterable[LinearSlot], pruned: Iterable[LinearSlot], width: int) -> BlockShapes:
        """Of a block's matrices, and those of them that are pruned. Experts count as one FFN of the same shapes."""
        chosen = list({(slot.path, slot.out_features, slot.in_features): slot for slot in pruned}.values())
        attention = [slot for slot in chosen if slot.part is Part.ATTENTION and slot.out_features == width]
        ffn = [slot for slot in chosen if slot.part is Part.FFN]
        down = max(ffn, key=lambda slot: slot.in_features, default=None)
        weights = sum(slot.numel for slot in slots)
        return cls(
            width=width,
            matrices=tuple((slot.out_features, slot.in_features) for slot in chosen),
            heads=attention[-1].in_features if attention else 0,
            inner=0 if down is None else sum(slot.out_features for slot in ffn if slot is not down),
            hidden=0 if down is None else down.in_features,
            other=weights - sum(slot.numel for slot in chosen),
        )

    @classmethod
    def whole(cls, matrices: Sequence[tuple[int, int]], width: int) -> BlockShapes:
        """Of a block all of whose matrices (out, in) are pruned, told by the shapes alone."""
        outputs = [columns for rows, columns in matrices if rows == width]
        hidden = max((columns for columns in outputs if columns > width), default=0)
        inner = sum(rows for rows, columns in matrices if columns == width and hidden and rows % hidden == 0)
        heads = next((columns for columns in reversed(outputs) if columns != hidden), 0)
        return cls(width, tuple(matrices), heads, inner, hidden, other=0)

    def forward(self, seq_len: int) -> int:
        """Multiplications of a token's way through the block."""
        return self.weights + self.other + 2 * seq_len * self.heads

    @property
    def weights(self) -> int:
        """That are pruned."""
        return sum(rows * columns for rows, columns in self.matrices)

    @property
    def widest(self) -> int:
        """The most inputs of a matrix."""
        return max(columns for _, columns in self.matrices)
