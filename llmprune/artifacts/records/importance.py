"""The block-importance file: in which order blocks go, and every loss that decided it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, Protocol, Self

from pydantic import model_validator

from llmprune.artifacts.records.environment import Environment
from llmprune.artifacts.records.provenance import Artifact, BlockNumber, CorpusIdentity, Count, ModelIdentity, Record
from llmprune.choices import Metric, Search
from llmprune.errors import ArtifactError


class CandidateRecord(Record):
    """One block in one round: see ``block_search.Candidate``."""

    block: BlockNumber
    loss: float
    tokens: Count
    complete: bool


class Seen(Protocol):
    """How much of the windows a candidate saw."""

    @property
    def tokens(self) -> int:
        """Predicted tokens."""

    @property
    def complete(self) -> bool:
        """Whether these were all."""


def spell_round(block: int, loss: float, candidates: Sequence[Seen], seconds: float) -> str:
    """A decided round in a line."""
    dropped = [candidate.tokens for candidate in candidates if not candidate.complete]
    tokens = " to ".join(map(str, sorted({min(dropped), max(dropped)}))) if dropped else ""
    early = f", {len(dropped)} dropped after {tokens} tokens" if dropped else ""
    return f"block {block:>3} goes: loss {loss:.4f} nats/token, {len(candidates)} candidates{early} ({seconds:.0f} s)"


class RoundRecord(Record):
    """One decided round: see ``block_search.Round``; ``seconds`` is its wall time."""

    removed: BlockNumber
    loss: float
    candidates: tuple[CandidateRecord, ...]
    block_forwards: Count
    naive_block_forwards: Count
    seconds: float

    def __str__(self) -> str:
        return spell_round(self.removed, self.loss, self.candidates, self.seconds)


class SearchHealing(Record):
    """How a search healed the block before each candidate.

    Attributes:
        windows: of the calibration that corrections were solved on; candidates were measured on all others.
        held_back: of these, the last ones, which chose the ridges.
        ridges: that they chose from.
    """

    windows: int
    held_back: int
    ridges: tuple[float, ...]


class SwapRecord(Record):
    """One removed block that was taken back: see ``swaps.Swap``; ``seconds`` is the wall time."""

    taken_back: BlockNumber
    removed: BlockNumber
    loss_before: float
    loss: float
    kept: bool
    seconds: float

    def __str__(self) -> str:
        tried = f"block {self.taken_back:>3} is taken back: "
        if self.removed == self.taken_back:
            return f"{tried}no other is better ({self.seconds:.0f} s)"
        fate = "goes in its place" if self.kept else "would go in its place, but chance may explain it"
        return (
            f"{tried}block {self.removed} {fate}: loss {self.loss_before:.4f} -> {self.loss:.4f} ({self.seconds:.0f} s)"
        )


class Refinement(Record):
    """Swaps behind the search, for one number of blocks.

    Attributes:
        swaps: what was tried, in order.
        removed: the blocks that are gone after them, as many as the search had removed.
        loss: mean loss without them, in nats/token.
    """

    swaps: tuple[SwapRecord, ...]
    removed: tuple[BlockNumber, ...]
    loss: float


class SearchSettings(Record):
    """Everything that decides which blocks a search chooses.

    Attributes:
        metric: ``sleb`` measures losses anew after every removal; the others are one-shot scores.
        search: how candidates of a ``sleb`` round are compared.
        protect_first: blocks at the start that are never candidates.
        protect_last: the same at the end.
        error_rate: bound on the chance, in a whole round, of dropping early the block that an exhaustive round would
            remove, over all comparisons and all rivals; None when nothing is eliminated.
        looks: after how many windows, in their shuffled order, candidates were compared; None as above.
        dtype: what the losses were computed in.
        heal: how the block before each candidate was healed; None: it was not.
    """

    metric: Metric
    search: Search | None
    protect_first: Count
    protect_last: Count
    error_rate: float | None
    looks: tuple[int, ...] | None
    dtype: str
    heal: SearchHealing | None = None


class Importance(Artifact):
    """``importance.json``.

    Attributes:
        model: the model whose blocks were ranked.
        corpus: the calibration text.
        windows_fingerprint: SHA-256 of the calibration windows' tokens.
        num_windows: calibration windows.
        seq_len: tokens in each.
        settings: what decides the choice.
        dense_loss: of the model with all its blocks, in nats/token, on the windows that candidates are measured on.
        rounds: decided rounds, in order; empty for one-shot metrics.
        scores: a score for each block, for one-shot metrics.
        order: blocks in the order they go, by their index in the unpruned model.
        environment: what the last rounds were computed with; None in files from before it was kept.
        remarks: what went another way than usual.
        refinement: swaps that other blocks for one target came of; None: none were tried.
    """

    KIND: ClassVar[str] = "llmprune-importance"
    SCHEMA: ClassVar[int] = 3
    OLDEST: ClassVar[int] = 2

    kind: Literal["llmprune-importance"] = "llmprune-importance"
    schema_version: int = 3
    model: ModelIdentity
    corpus: CorpusIdentity
    windows_fingerprint: str
    num_windows: Count
    seq_len: Count
    settings: SearchSettings
    dense_loss: float
    rounds: tuple[RoundRecord, ...] = ()
    scores: tuple[float, ...] | None = None
    order: tuple[BlockNumber, ...]
    environment: Environment | None = None
    remarks: tuple[str, ...] = ()
    refinement: Refinement | None = None

    @model_validator(mode="after")
    def _one_ranking(self) -> Self:
        """A searched order is what the rounds decided; a scored one has a score for every block."""
        if self.settings.metric is Metric.SLEB and tuple(decided.removed for decided in self.rounds) != self.order:
            raise ValueError("the order is not the one that the rounds decided")
        for blocks in (self.order, self.refinement.removed if self.refinement is not None else ()):
            if len(set(blocks)) < len(blocks) or max(blocks, default=0) >= self.model.num_blocks:
                raise ValueError("the order names a block twice, or one that the model does not have")
        if self.settings.metric is not Metric.SLEB and (self.rounds or len(self.scores or ()) != self.model.num_blocks):
            raise ValueError("there is not one score for each block")
        return self

    @property
    def measured_on(self) -> str:
        """The windows that candidates are measured on, for people."""
        healing = self.settings.heal
        return measured_on(self.num_windows, healing.windows if healing is not None else 0, self.seq_len, self.corpus)

    @property
    def block_forwards(self) -> int:
        """Forward passes of one block on one window that the search ran."""
        return sum(decided.block_forwards for decided in self.rounds)

    @property
    def naive_block_forwards(self) -> int:
        """How many skipping each candidate in a full forward pass would have run."""
        return sum(decided.naive_block_forwards for decided in self.rounds)

    def first(self, count: int) -> tuple[int, ...]:
        """The blocks that go when ``count`` do: the head of the order, or what swaps made of it."""
        refined = self._refined(count)
        return self.order[:count] if refined is None else refined.removed

    def loss_without(self, count: int) -> float | None:
        """Mean loss without these, in nats/token; None: not measured."""
        refined = self._refined(count)
        if refined is not None:
            return refined.loss
        return self.rounds[count - 1].loss if self.rounds else None

    def _refined(self, count: int) -> Refinement | None:
        known = self.refinement
        return known if known is not None and len(known.removed) == count else None

    def has_best(self, count: int) -> bool:
        """Whether the first ``count`` blocks of the order are what a search for just so many would name.

        Greedy choices and single blocks' scores nest; the closest run of fewer blocks may be another one.
        """
        return count == len(self.order) or (count < len(self.order) and self.settings.metric is not Metric.ANGULAR)

    def check_belongs(self, model: ModelIdentity, path: Path) -> None:
        """See that this file ranks the blocks of ``model``.

        Raises:
            ArtifactError: it ranks another model's, or names blocks that the model lacks.
        """
        if self.model.fingerprint != model.fingerprint:
            raise ArtifactError(
                f"{path} ranks the blocks of {self.model.name} ({self.model.num_blocks} blocks, fingerprint "
                f"{self.model.fingerprint[:12]}), not of {model.name} ({model.num_blocks} blocks, "
                f"{model.fingerprint[:12]}); use another run directory (`run`) for another model."
            )
        check_blocks(self.order, num_blocks=model.num_blocks, source=str(path))


def measured_on(num_windows: int, solved_on: int, seq_len: int, corpus: CorpusIdentity) -> str:
    """The windows that candidates are measured on, for people; ``solved_on`` of all heal instead."""
    healed = f", healed on {solved_on} others" if solved_on else ""
    return f"{num_windows - solved_on} windows of {seq_len} tokens of {corpus.described}{healed}"


def check_blocks(blocks: Sequence[int], *, num_blocks: int, source: str) -> None:
    """See that ``blocks`` are different indices of existing blocks, and not all of them.

    Raises:
        ArtifactError: they are not.
    """
    outside = [block for block in blocks if not 0 <= block < num_blocks]
    if outside:
        raise ArtifactError(f"{source} names block {outside[0]}, but the model has blocks 0 to {num_blocks - 1}.")
    if len(set(blocks)) != len(blocks):
        raise ArtifactError(f"{source} names a block twice: {', '.join(map(str, blocks))}.")
    if len(blocks) >= num_blocks:
        raise ArtifactError(f"{source} removes all {num_blocks} blocks; at least one must stay.")
