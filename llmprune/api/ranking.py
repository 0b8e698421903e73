"""The blocks of a model in the order in which they can go."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from llmprune.algorithms import Candidate
from llmprune.api.tables import table
from llmprune.artifacts.files.digests import FileDigest
from llmprune.artifacts.records.importance import spell_round
from llmprune.artifacts.records.provenance import CorpusIdentity
from llmprune.artifacts.records.pruning import BlockRemoval
from llmprune.choices import Metric
from llmprune.errors import TargetError
from llmprune.stages.block_search import RedundancySettings

Target = str | int | float


@dataclass(frozen=True)
class Ground:
    """What a ranking stands on, known once it has begun.

    Attributes:
        text: the windows, for people.
        corpus: what they were drawn from.
        dense_loss: of the whole model on them, in nats/token.
        importance: the file that keeps the ranking; None: it is not kept.
        refined: other blocks that swaps behind the search found for one target; none: there were none.
        refined_loss: without these, in nats/token.
    """

    text: str
    corpus: CorpusIdentity
    dense_loss: float
    importance: Path | None = None
    refined: tuple[int, ...] = ()
    refined_loss: float | None = None


@dataclass(frozen=True, repr=False)
class Round:
    """One decision of a ranking.

    Attributes:
        block: index, in the unpruned model, of the block that goes.
        loss: mean loss without it and all that went before, in nats/token; None where a score decided.
        score: of the block, where a one-shot metric decided; None where losses did.
        candidates: every block that could have gone, in block order; none where a score decided.
        seconds: wall time; None where nothing was measured for this round.
    """

    block: int
    loss: float | None = None
    score: float | None = None
    candidates: tuple[Candidate, ...] = ()
    seconds: float | None = None

    def __repr__(self) -> str:
        if self.loss is None or self.seconds is None:
            return f"block {self.block:>3} goes: score {self.score:.4g}"
        return spell_round(self.block, self.loss, self.candidates, self.seconds)


class Ranking(Iterator[Round]):
    """The blocks of a model in the order in which they can go: iterate, and a round is decided at each step.

    Stop whenever you like, and iterate further to go on: ``list(ranking)`` decides all that is left.

    Attributes:
        metric: what decides.
        num_blocks: of the model.
    """

    def __init__(
        self,
        settings: RedundancySettings,
        steps: Iterator[tuple[Ground, Round]],
        *,
        num_blocks: int,
        resources: ExitStack | None = None,
    ) -> None:
        self.metric = settings.metric
        self.num_blocks = num_blocks
        self._settings, self._steps = settings, steps
        self._rounds: list[Round] = []
        self._ground: Ground | None = None
        if resources is not None:
            weakref.finalize(self, resources.close)

    def __next__(self) -> Round:
        self._ground, decided = next(self._steps)
        self._rounds.append(decided)
        return decided

    @property
    def rounds(self) -> tuple[Round, ...]:
        """What has been decided so far."""
        return tuple(self._rounds)

    @property
    def order(self) -> tuple[int, ...]:
        """The blocks that go, first to last, as far as it has been decided."""
        return tuple(decided.block for decided in self._rounds)

    @property
    def dense_loss(self) -> float | None:
        """Loss of the whole model, in nats/token; None before the first round."""
        return None if self._ground is None else self._ground.dense_loss

    def first(self, target: Target) -> tuple[int, ...]:
        """The blocks that ``target`` removes (``"20%"``, ``0.2``, ``6``); rounds that are missing are decided now.

        Raises:
            TargetError: the target is out of range, or beyond where this ranking ends.
        """
        count = count_blocks(target, self._settings, self.num_blocks)
        most = count_blocks(self._settings.target, self._settings, self.num_blocks)
        if count > most or (self.metric == Metric.ANGULAR and count != most):
            raise TargetError(f"This ranking is one of {most} blocks, not of {count}; rank with `target={count}`.")
        while len(self._rounds) < count:
            next(self)
        refined = self._ground.refined if self._ground is not None else ()
        return refined if len(refined) == count else self.order[:count]

    def removal(self, blocks: tuple[int, ...]) -> BlockRemoval:
        """What a checkpoint's record says of a removal of the first ``blocks``, which are decided."""
        assert self._ground is not None, "a block is decided"
        kept, refined = self._ground.importance, blocks == self._ground.refined
        return BlockRemoval(
            removed=blocks,
            metric=self.metric,
            importance=None if kept is None else FileDigest.of_file(kept).sha256,
            calibration=self._ground.text,
            dense_loss=self._ground.dense_loss,
            pruned_loss=self._ground.refined_loss if refined else self._rounds[len(blocks) - 1].loss,
            corpus=self._ground.corpus,
            search_heals=self._settings.heal,
        )

    def __repr__(self) -> str:
        title = f"{len(self._rounds)} of {self.num_blocks} blocks ranked by {self.metric}"
        if self._ground is None:
            return title
        searched = self.metric == Metric.SLEB
        rows = [["dense", "", *_cells(self._ground.dense_loss)]] if searched else []
        for number, decided in enumerate(self._rounds, start=1):
            value = [f"{decided.score:.4g}"] if decided.loss is None else _cells(decided.loss)
            rows.append([str(number), str(decided.block), *value])
        header = ["round", "block", *(("loss", "perplexity") if searched else ("score",))]
        return f"{title}, on {self._ground.text}\n{table(header, rows)}"


def count_blocks(target: Target, settings: RedundancySettings, num_blocks: int) -> int:
    """How many of a model's blocks a target removes.

    Raises:
        TargetError: the target is out of range.
    """
    return replace(settings, target=str(target)).count(num_blocks)


def _cells(loss: float) -> list[str]:
    return [f"{loss:.4f}", f"{math.exp(loss):.2f}"]
