"""Perplexity and tasks by several ranks: each opens the model, and has its share of the windows and of the requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmprune.evaluation.tasks import Answer, Pairs, own_likelihoods
from llmprune.models.compute import Compute
from llmprune.ranks.group import Placed, Ranks
from llmprune.stages.benchmark.opened import Loaded, Streamed
from llmprune.stages.common.progress import Silent

if TYPE_CHECKING:
    from llmprune.stages.benchmark.subjects import Subject


@dataclass(frozen=True)
class QualityShare:
    """One rank's part in measuring what a model computes.

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

    def likelihoods(
        self, pairs: Pairs, batch_size: int, bos: bool, on_requests: Callable[[int], None] = lambda _: None
    ) -> list[Answer]:
        """Log-likelihoods of this rank's share of some texts behind others, of which it may have none.

        Args:
            pairs: all of them, see ``evaluation.tasks.own_likelihoods``.
            batch_size: sequences in one forward pass.
            bos: whether the tokenizer puts its BOS in front.
            on_requests: called with the number of sequences done.
        """
        share = self.ranks.share(range(len(pairs)))
        if not share:
            return []
        return own_likelihoods(
            self.one.model,
            self.one.subject.tokenizer(),
            pairs[share.start : share.stop],
            batch_size=batch_size,
            bos=bos,
            streamed=self.one.logits() if isinstance(self.one, Streamed) else None,
            on_requests=on_requests,
        )


def opened_by_all(one: Loaded | Streamed, dtype: torch.dtype, compute: Compute) -> Placed[QualityShare]:
    """Every rank has the model for as long as the context of what is returned lasts.

    Args:
        one: the model, as this rank has it.
        dtype: what is computed in.
        compute: where.
    """
    given = (one.subject, dtype, isinstance(one, Loaded), compute)
    return compute.ranks.place(_open_share, *given, own={"one": one})


def _open_share(
    subject: Subject, dtype: torch.dtype, whole: bool, compute: Compute, one: Loaded | Streamed | None = None
) -> QualityShare:
    here = compute.here()
    one = one or subject.open(dtype, whole=whole, compute=here, progress=Silent())
    return QualityShare(one, here.batch_tokens, here.ranks)
