"""Perplexity by several ranks: each opens the model and runs its share of the windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmprune.models.compute import Compute
from llmprune.ranks.group import Ranks
from llmprune.stages.benchmark.opened import Loaded, Streamed
from llmprune.stages.common.progress import Progress, Silent, shared_task
from llmprune.text.windows import TokenWindows

if TYPE_CHECKING:
    from llmprune.stages.benchmark.subjects import Subject


@dataclass(frozen=True)
class LossesShare:
    """One rank's part in measuring a model.

    Attributes:
        one: the model.
        batch_tokens: tokens in one forward pass.
        ranks: this rank among the others.
    """

    one: Loaded | Streamed
    batch_tokens: int
    ranks: Ranks

    def window_losses(self, tokens: Tensor, on_windows: Callable[[int], None] = lambda _: None) -> tuple[float, ...]:
        """Mean losses of this rank's share of some windows, of which it may have none.

        Args:
            tokens: all of them (num_windows, seq_len) int64.
            on_windows: called with the number of windows done.
        """
        share = self.ranks.share(tokens)
        if not len(share):
            return ()
        return self.one.window_losses(share, batch_tokens=self.batch_tokens, on_windows=on_windows)


def losses_of_texts(
    one: Loaded | Streamed, texts: Sequence[TokenWindows], dtype: torch.dtype, compute: Compute, progress: Progress
) -> list[tuple[float, ...]]:
    """Mean loss of every window of every text, in nats/token.

    Args:
        one: the model, as this rank has it. The others open it now, and close it at the end.
        texts: the windows.
        dtype: what is computed in.
        compute: where.
        progress: who listens.
    """
    ranks, losses = compute.ranks, list[tuple[float, ...]]()
    shares = ranks.place(_open_share, one.subject, dtype, isinstance(one, Loaded), compute, own={"one": one})
    for windows in texts:
        title = f"Perplexity on {windows.identity().name}, {one.subject.num_blocks} blocks"
        own = len(ranks.share(windows.tokens))
        with shared_task(progress, title, windows.num_windows, own=own) as advance:
            found = shares.call("window_losses", windows.tokens, own={"on_windows": advance})
        losses.append(tuple(loss for part in found for loss in part))
    shares.drop()
    return losses


def _open_share(
    subject: Subject, dtype: torch.dtype, whole: bool, compute: Compute, one: Loaded | Streamed | None = None
) -> LossesShare:
    here = compute.here()
    one = one or subject.open(dtype, whole=whole, compute=here, progress=Silent())
    return LossesShare(one, here.batch_tokens, here.ranks)
