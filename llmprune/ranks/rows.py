"""Items and rows of matrices that ranks divide, and how rows go from rank to rank."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Items = TypeVar("Items", range, Tensor)


def part_of(items: Items, rank: int, size: int) -> Items:
    """A rank's part of some items: as many as others have, or one more, in the order of the ranks."""
    each, more = divmod(len(items), size)
    start = rank * each + min(rank, more)
    return items[start : start + each + (rank < more)]


def reduced_rows(matrix: Tensor, rank: int, size: int) -> Tensor:
    """This rank's rows of a contiguous matrix's sum over all ranks; the matrix is given away."""
    for owner in range(size):
        if len(rows := part_of(matrix, owner, size)):
            dist.reduce(rows, owner)
    return part_of(matrix, rank, size).clone()  # the rest is let go


def gathered_rows(part: Tensor, rows: int, size: int) -> Tensor:
    """All ``rows`` of a matrix of which each rank has its part."""
    most = -(-rows // size)
    whole = part.new_empty(size, most, *part.shape[1:])
    if len(part) < most:
        part = torch.cat([part, part.new_zeros(most - len(part), *part.shape[1:])])
    dist.all_gather([as_bytes(one) for one in whole], as_bytes(part.contiguous()))
    if rows == size * most:
        return whole.flatten(0, 1)
    return torch.cat([one[: len(part_of(range(rows), rank, size))] for rank, one in enumerate(whole)])


def as_bytes(tensor: Tensor) -> Tensor:
    """A contiguous tensor as what every backend can send."""
    return tensor.view(-1).view(torch.uint8)
