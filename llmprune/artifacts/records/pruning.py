"""``llmprune.json``, which lies in every checkpoint that llmprune writes: what was done, and from what."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from llmprune.artifacts.checkpoints.block_numbers import kept_blocks, split_at_number
from llmprune.artifacts.records.environment import Environment
from llmprune.artifacts.records.healing import Healing
from llmprune.artifacts.records.provenance import (
    Artifact,
    BlockNumber,
    Blocks,
    CorpusIdentity,
    Count,
    FileRecord,
    ModelIdentity,
    Record,
    WeightsIdentity,
)
from llmprune.artifacts.records.weight_sparsity import WeightSparsity

RECORD_NAME = "llmprune.json"
_EXPERT = re.compile(r"(?P<before>.*\.experts\.)(?P<expert>[0-9]+)(?P<behind>\..*)")


class BlockRemoval(Record):
    """Which blocks were removed, and why these.

    Attributes:
        removed: by their index in the source model, in the order in which they were chosen.
        metric: what chose them; None: they were typed by hand.
        importance: SHA-256 of the importance file's content; None: by hand.
        calibration: what the losses were measured on, for people; None: by hand.
        dense_loss: of the source model on it, in nats/token.
        pruned_loss: of the pruned model on it, in nats/token, where the metric measured it.
        corpus: the text of the calibration; None: by hand, or in files from before it was kept.
        search_heals: whether the search measured each candidate healed; ``pruned_loss`` is then that of a healed model.
    """

    removed: tuple[BlockNumber, ...]
    metric: str | None = None
    importance: str | None = None
    calibration: str | None = None
    dense_loss: float | None = None
    pruned_loss: float | None = None
    corpus: CorpusIdentity | None = None
    search_heals: bool = False


class ExpertRemoval(Record):
    """Which experts were removed, and why these.

    Attributes:
        removed: for each block with experts, those that went, by their index in the source model, in ascending order.
        before: experts of each of these blocks in the source.
        left: that stayed.
        metric: what chose them; None: they were named by hand.
        importance: SHA-256 of the expert-importance file's content; None: there is none.
        calibration: what the metric was measured on, for people; None: by hand.
    """

    removed: dict[BlockNumber, tuple[BlockNumber, ...]]
    before: Blocks
    left: Blocks
    metric: str | None = None
    importance: str | None = None
    calibration: str | None = None


class MaskApplication(Record):
    """Which weights were made zero by the mask of another checkpoint.

    Attributes:
        mask: name of the mask file, or of the checkpoint whose mask it is.
        sha256: of the mask file.
        fingerprint: SHA-256 of the weights that the mask was read from (``Checkpoint.fingerprint``).
        pattern: what the mask says of its pattern.
        tensors: the masked weights, by name.
        numel: elements of them.
        zeros_before: of these, zero in the source.
        zeros: zero in the written files.
    """

    mask: str
    sha256: str
    fingerprint: str
    pattern: str | None
    tensors: tuple[str, ...]
    numel: Count
    zeros_before: Count
    zeros: Count


class Verification(Record):
    """What was seen when the written checkpoint was loaded again.

    Attributes:
        dtype: computed in.
        tokens: compared in all.
        largest_difference: between its logits, computed block by block and by plain transformers, and those that the
            source's blocks give, run one by one: without the removed ones, or with the pruned weights.
        generated_tokens: that were the same with and without the KV cache; None: plain transformers did not load it,
            since it does not fit in memory.
        remark: what was not seen and why, or what is not as it should be and is so in the source too; None: nothing.
    """

    dtype: str
    tokens: int
    largest_difference: float
    generated_tokens: int | None = None
    remark: str | None = None


class WrittenFiles(Record):
    """What a checkpoint's files held when they were written.

    Attributes:
        fingerprint: of its config and weights, as in ``ModelIdentity``.
        files: every file by its path in the checkpoint, but for ``llmprune.json`` and the card, which is for people to
            edit.
        tensors: a short digest of a part of every stored tensor (``sample_tensors``): it tells whether a few weights
            are damaged, or all of them were trained on.
    """

    fingerprint: str
    files: dict[str, FileRecord]
    tensors: dict[str, str]

    @property
    def identity(self) -> WeightsIdentity:
        """The config and weights that were written."""
        weights = {name: file.digest for name, file in self.files.items() if name.endswith(".safetensors")}
        return WeightsIdentity.of(self.fingerprint, weights)


class PruningRecord(Artifact):
    """``llmprune.json``.

    Attributes:
        source: the model that was pruned.
        source_record: the source's own ``llmprune.json``, when it was pruned before.
        removal: which blocks were removed; None: none.
        experts: which experts were removed; None: none.
        sparsity: which weights were pruned; None: none.
        masked: which weights a mask made zero; None: none.
        healing: which weights were solved anew towards the dense model; None: none.
        num_blocks: blocks left.
        num_parameters: weights left, tied ones once.
        weight_bytes: on disk.
        command: what to type to make it again; None: it was pruned on windows given in Python, which no command has.
        verification: None with ``--no-verify``.
        environment: what it was computed with; None in files from before it was kept.
        written: what the files held; None in files from before it was kept.
    """

    KIND: ClassVar[str] = "llmprune-checkpoint"

    kind: Literal["llmprune-checkpoint"] = "llmprune-checkpoint"
    schema_version: int = 1
    source: ModelIdentity
    source_record: PruningRecord | None = None
    removal: BlockRemoval | None = None
    experts: ExpertRemoval | None = None
    sparsity: WeightSparsity | None = None
    masked: MaskApplication | None = None
    healing: Healing | None = None
    num_blocks: Blocks
    num_parameters: Count
    weight_bytes: Count
    command: str | None
    verification: Verification | None = None
    environment: Environment | None = None
    written: WrittenFiles | None = None

    @model_validator(mode="after")
    def _removes_what_is_there(self) -> Self:
        """What was removed was in the source, and is named once."""
        removed = [(self.removal.removed, self.source.num_blocks)] if self.removal is not None else []
        if self.experts is not None:
            removed += [(gone, self.experts.before) for gone in self.experts.removed.values()]
        for gone, before in removed:
            if len(set(gone)) < len(gone) or max(gone, default=-1) >= before or len(gone) == before:
                raise ValueError("it removes what its source does not have, or twice, or everything")
        return self

    @property
    def made_by(self) -> str:
        """The command that makes it again, or why there is none."""
        return self.command or "# in Python, on windows of tokens that no command has"

    @property
    def pruned_tensors(self) -> tuple[str, ...]:
        """Names of the weights that were given zeros, by pruning or by a mask; none where only blocks were removed."""
        if self.masked is not None:
            return self.masked.tensors
        blocks = self.sparsity.blocks if self.sparsity is not None else ()
        return tuple(name for block in blocks for matrix in block.matrices for name in matrix.tensors)

    @property
    def pattern(self) -> str | None:
        """The pattern of these zeros, such as ``2:4``, where it is known."""
        if self.masked is not None:
            return self.masked.pattern
        return self.sparsity.settings.pattern if self.sparsity is not None else None

    @property
    def zeroed_tensors(self) -> tuple[str, ...]:
        """Names, in this checkpoint, of the weights that were given zeros in this step or an earlier one."""
        earlier = self.source_record.zeroed_tensors if self.source_record is not None else ()
        if self.removal is not None:
            earlier = tuple(_renumbered(earlier, kept_blocks(self.source.num_blocks, self.removal.removed)))
        if self.experts is not None:
            earlier = tuple(_of_experts(earlier, self.experts))
        return tuple(dict.fromkeys((*earlier, *self.pruned_tensors)))

    @property
    def zeros_pattern(self) -> str | None:
        """The pattern of all zeros of this checkpoint; None where it is unknown, or differs from step to step."""
        earlier = self.source_record
        if earlier is None or not earlier.zeroed_tensors:
            return self.pattern
        return earlier.zeros_pattern if not self.pruned_tensors else None


def zeroed_tensors(directory: Path) -> frozenset[str]:
    """Names of a checkpoint's tensors that llmprune gave zeros; none where it did not write the checkpoint.

    Raises:
        ArtifactError: its record cannot be read.
    """
    path = directory / RECORD_NAME
    return frozenset(PruningRecord.read(path).zeroed_tensors) if path.exists() else frozenset()


def blocks_left(record: PruningRecord, of: str) -> tuple[int, ...] | None:
    """The blocks of an earlier model that a checkpoint has left, by their index there.

    Args:
        record: of the checkpoint.
        of: fingerprint of the earlier model.

    Returns:
        The indices in order; None: the checkpoint was not made from that model.
    """
    earlier = record.source_record
    own = kept_blocks(record.source.num_blocks, record.removal.removed if record.removal is not None else ())
    if record.source.fingerprint == of:
        return tuple(own)
    before = blocks_left(earlier, of) if earlier is not None else None
    return tuple(before[block] for block in own) if before is not None else None


def _renumbered(names: Iterable[str], kept: Sequence[int]) -> Iterator[str]:
    """The names of weights of the blocks ``kept`` when only these are left; a name's first number is its block's."""
    new = {old: index for index, old in enumerate(kept)}
    for name in names:
        parts = split_at_number(name)
        if parts is None:
            yield name
        elif parts[1] in new:
            yield f"{parts[0]}{new[parts[1]]}{parts[2]}"


def _of_experts(names: Iterable[str], removal: ExpertRemoval) -> Iterator[str]:
    """The names of weights when experts are gone. One that is an expert's own has its number behind ``experts``."""
    for name in names:
        parts, match = split_at_number(name), _EXPERT.fullmatch(name)
        if parts is None or match is None or parts[1] not in removal.removed:
            yield name
            continue
        left = [expert for expert in range(removal.before) if expert not in removal.removed[parts[1]]]
        if int(match["expert"]) in left:
            yield f"{match['before']}{left.index(int(match['expert']))}{match['behind']}"
