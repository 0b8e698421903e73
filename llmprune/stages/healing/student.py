"""A pruned model beside the dense one: which blocks it has left, and what each of them is to give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from llmprune.choices import Scope
from llmprune.models.decoder import Decoder


@dataclass(frozen=True)
class Student:
    """A pruned model, as its own decoder or as the dense one whose other blocks are passed by.

    Attributes:
        decoder: where its blocks' weights are.
        blocks: its blocks by their index in ``decoder``, in order.
        origins: the same by their index in the dense model.
        depth: blocks of the dense model.
        masked: names of the tensors whose zeros stay zeros; None: all.
    """

    decoder: Decoder
    blocks: tuple[int, ...]
    origins: tuple[int, ...]
    depth: int
    masked: frozenset[str] | None = frozenset()

    def goal(self, place: int) -> int:
        """The block of the dense model whose input the block at ``place`` is to give; the depth: the last output."""
        return self.origins[place + 1] if place + 1 < len(self.origins) else self.depth

    @property
    def cuts(self) -> tuple[int, ...]:
        """The blocks before holes, by their place in the pruned model."""
        return tuple(place for place, origin in enumerate(self.origins) if self.goal(place) > origin + 1)

    def healed_places(self, scope: Scope, *, same: int) -> tuple[int, ...]:
        """Which blocks are healed, by their place in the pruned model.

        Args:
            scope: the blocks before holes alone, or every one from the first on that can be wrong. A model that lost
                weights and no block has no holes, and is healed throughout in either case.
            same: how many leading blocks are the dense model's own, see ``same_blocks``.
        """
        if scope is Scope.CUT and self.cuts:
            return self.cuts
        return tuple(range(min((same, *self.cuts)), len(self.origins)))


def without_blocks(dense: Decoder, kept: Sequence[int], *, masked: frozenset[str]) -> Student:
    """The dense model with the blocks ``kept`` alone."""
    return Student(dense, tuple(kept), tuple(kept), len(dense.blocks), masked)


def of_its_own(decoder: Decoder, origins: Sequence[int], *, depth: int, masked: frozenset[str] | None) -> Student:
    """A pruned model with weights of its own."""
    return Student(decoder, tuple(range(len(origins))), tuple(origins), depth, masked)


def same_blocks(student: Student, dense: Decoder) -> int:
    """How many leading blocks have the dense model's very weights and come before any hole.

    Hidden states that enter any of these, or leave the last of them, are the dense model's own.
    """
    most = min((*student.cuts, len(student.origins)))
    tokens = torch.zeros(1, 2, dtype=torch.int64, device=dense.device)
    if not torch.equal(student.decoder.runner.embed(tokens), dense.runner.embed(tokens)):
        return 0
    for place in range(most):
        if student.origins[place] != place or not _same_weights(student, dense, place):
            return place
    return most


def _same_weights(student: Student, dense: Decoder, place: int) -> bool:
    if student.decoder is dense:
        return True
    with student.decoder.block(student.blocks[place]), dense.block(place):
        ours, theirs = student.decoder.blocks[student.blocks[place]].state_dict(), dense.blocks[place].state_dict()
        return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
