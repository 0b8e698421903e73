"""Tokens that an expert is pruned on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """Some tokens of an expert: rows of its inputs, of the dense model's, and what its outputs are multiplied by."""

    inputs: Tensor
    dense: Tensor | None
    scale: Tensor | None

    @classmethod
    def joined(cls, parts: list[Tokens]) -> Tokens:
        """All rows of the parts."""
        dense = [part.dense for part in parts if part.dense is not None]
        scale = [part.scale for part in parts if part.scale is not None]
        return cls(
            torch.cat([part.inputs for part in parts]),
            torch.cat(dense) if dense else None,
            torch.cat(scale) if scale else None,
        )


def in_chunks(tokens: Iterable[Tokens], size: int) -> Iterator[Tokens]:
    """The same tokens, joined until there are at least ``size`` of them."""
    waiting: list[Tokens] = []
    for part in tokens:
        waiting.append(part)
        if sum(len(one.inputs) for one in waiting) >= size:
            yield Tokens.joined(waiting)
            waiting = []
    if waiting:
        yield Tokens.joined(waiting)
