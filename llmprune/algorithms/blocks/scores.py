"""One-shot block scores: one pass over the dense model, nothing measured again after a removal.

They are the usual comparison for SLEB's re-measured losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def cosine_similarity_sum(before: Tensor, after: Tensor) -> float:
    """Sum over tokens of the cosine similarity of two (..., hidden_size) tensors, in float64."""
    similarity = torch.cosine_similarity(before.float(), after.float(), dim=-1)
    return float(similarity.double().sum())


def angular_distances(states: Tensor) -> Tensor:
    """Mean angular distance between the hidden states entering any two blocks (arXiv 2403.17887, eq. 8).

    Args:
        states: (num_blocks + 1, windows, hidden_size): hidden states of the last token of
            each window, entering each block and leaving the last.

    Returns:
        (num_blocks + 1, num_blocks + 1) float64, arccos(cosine) / pi, averaged over windows.
    """
    unit = torch.nn.functional.normalize(states.double(), dim=-1)
    cosine = torch.einsum("awd,bwd->abw", unit, unit).clamp(-1, 1)
    return torch.arccos(cosine).mean(dim=-1) / math.pi


def least_influential(influence: Sequence[float], *, count: int, protected: frozenset[int]) -> list[int]:
    """The ``count`` blocks of smallest block influence (ShortGPT, arXiv 2403.03853), smallest first.

    Args:
        influence: 1 - mean cosine similarity of each block's input and output.
        count: how many blocks to name.
        protected: blocks that are never named.
    """
    free = [block for block in range(len(influence)) if block not in protected]
    return sorted(free, key=lambda block: influence[block])[:count]


def closest_run(distances: Sequence[Sequence[float]], *, count: int, protected: frozenset[int]) -> list[int]:
    """The ``count`` consecutive blocks whose input and output are closest in angle (arXiv 2403.17887).

    Args:
        distances: (num_blocks + 1, num_blocks + 1), as ``angular_distances`` gives them.
        count: the length of the run.
        protected: blocks that may not be part of it.

    Raises:
        ValueError: no run of that length avoids the protected blocks.
    """
    runs = [
        list(range(start, start + count))
        for start in range(len(distances) - count)
        if protected.isdisjoint(range(start, start + count))
    ]
    if not runs:
        raise ValueError(f"no {count} consecutive blocks are free of protection")
    return min(runs, key=lambda run: distances[run[0]][run[0] + count])
