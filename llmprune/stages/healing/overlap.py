"""How much of the windows that choose is also in the windows that weights are solved on.

Windows lie at random positions of a text. Where the text is short they overlap, and what is held back was seen already.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SPAN = 32  # tokens in a row that no two places of a text share by chance


def seen_share(held: Tensor, solved_on: Tensor) -> float:
    """Share of spans of tokens of ``held`` (windows, seq_len) that ``solved_on`` (windows, seq_len) holds anywhere."""
    span = min(_SPAN, held.shape[1])
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(1, 2**62, (span,), generator=generator)

    def hashed(tokens: Tensor) -> Tensor:
        return (tokens.unfold(1, span, 1) * factors).sum(-1).flatten()  # integers wrap around

    return float(torch.isin(hashed(held), hashed(solved_on)).double().mean())
