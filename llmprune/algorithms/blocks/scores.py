"""One-shot block scores: one pass over the dense model, nothing measured again after a removal.

They are the usual comparison for SLEB's re-measured losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from llmprune.algorithms.blocks.removable import MayGo, any_may_go, no_block_may_go
from llmprune.errors import TargetError


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


def least_influential(
    influence: Sequence[float], *, count: int, protected: frozenset[int], may_go: MayGo = any_may_go
) -> list[int]:
    """The ``count`` blocks of smallest block influence (ShortGPT, arXiv 2403.03853), smallest first.

    Args:
        influence: 1 - mean cosine similarity of each block's input and output.
        count: how many blocks to name.
        protected: blocks that are never named.
        may_go: which of the others may go when some are gone.

    Raises:
        TargetError: fewer than ``count`` may go.
    """
    named: list[int] = []
    while len(named) < count:
        free = [block for block in range(len(influence)) if block not in protected and block not in named]
        candidates = [block for block in free if may_go(named, block)]
        if not candidates:
            raise no_block_may_go(named)
        named.append(min(candidates, key=lambda block: influence[block]))
    return named


def closest_run(
    distances: Sequence[Sequence[float]], *, count: int, protected: frozenset[int], may_go: MayGo = any_may_go
) -> list[int]:
    """The ``count`` consecutive blocks whose input and output are closest in angle (arXiv 2403.17887).

    Args:
        distances: (num_blocks + 1, num_blocks + 1), as ``angular_distances`` gives them.
        count: the length of the run.
        protected: blocks that may not be part of it.
        may_go: whether the last block of a run may go when the others are gone.

    Raises:
        TargetError: no run of that length can go.
    """
    runs = [list(range(start, start + count)) for start in range(len(distances) - count)]
    able = [run for run in runs if protected.isdisjoint(run) and may_go(run[:-1], run[-1])]
    if not able:
        raise TargetError(f"No {count} consecutive blocks can be removed from this model; type another `target`.")
    return min(able, key=lambda run: distances[run[0]][run[0] + count])
