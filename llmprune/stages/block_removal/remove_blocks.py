"""``llmprune remove-blocks``: write the checkpoint without its most redundant blocks, and see that it is right."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from llmprune.algorithms.blocks.search import removal_count
from llmprune.artifacts.activations import sha256_of
from llmprune.artifacts.checkpoints.block_numbers import kept_blocks
from llmprune.artifacts.checkpoints.checkpoint import Checkpoint, open_checkpoint
from llmprune.artifacts.checkpoints.copying import DEFAULT_SHARD_BYTES, CopyReport, copy_tensors
from llmprune.artifacts.files.atomic import atomic_directory, write_json_atomic, write_text_atomic
from llmprune.artifacts.records.importance import Importance, RoundRecord, check_blocks
from llmprune.artifacts.records.pruning import RECORD_NAME, BlockRemoval, PruningRecord
from llmprune.choices import ERROR_RATE, TARGET, Search
from llmprune.errors import ArtifactError, CheckpointError, TargetError
from llmprune.models.anatomy import find_blocks, name_blocks
from llmprune.models.loading import empty_model, load_config, stored_dtype
from llmprune.models.surgery import cut_config, renamed_tensors, require_removable, tied_copies
from llmprune.publishing.card import CardFacts, model_card
from llmprune.publishing.licence import licence_of
from llmprune.stages.block_search.verify_redundancy import RedundancySettings, verify_redundancy
from llmprune.stages.common.checks import require_target
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.output.carried_files import carry_files
from llmprune.stages.output.place import check_output
from llmprune.stages.output.verification import verify_checkpoint


@dataclass(frozen=True)
class RemovalSettings:
    """Which blocks to remove, and where to write the result.

    Attributes:
        target: ``20%``, ``0.2`` or ``6``: that many blocks from the head of the importance file.
        blocks: these blocks, by hand, instead of a target.
        out: the new checkpoint's directory; None: in the run directory, named after what is kept.
        max_shard_bytes: largest weight file.
        verify: reload the result and compare it with the bypassed source.
        force: replace an output directory that holds another checkpoint.

    Raises:
        TargetError: a target that no model could satisfy, or no block at all.
    """

    target: str = TARGET
    blocks: tuple[int, ...] | None = None
    out: Path | None = None
    max_shard_bytes: int = DEFAULT_SHARD_BYTES
    verify: bool = True
    force: bool = False

    def __post_init__(self) -> None:
        if self.blocks is None:
            require_target(self.target)
        elif not self.blocks:
            raise TargetError("No block was named; type for example --blocks 3,7,12.")


@dataclass(frozen=True)
class RemovalReport:
    """What was written.

    Attributes:
        directory: the pruned checkpoint.
        record: its ``llmprune.json``.
        source_bytes: weight bytes of the source checkpoint.
        copy_seconds: wall time of streaming the tensors; 0 where the checkpoint was there already.
    """

    directory: Path
    record: PruningRecord
    source_bytes: int
    copy_seconds: float


def remove_blocks(
    workspace: Workspace,
    settings: RemovalSettings,
    *,
    redundancy: RedundancySettings | None = None,
    on_round: Callable[[RoundRecord], None] = lambda _: None,
) -> RemovalReport:
    """Write a checkpoint without the blocks that a target or a list names.

    With a target, the stages that are missing (``calibrate``, ``verify-redundancy``) run first.
    Tensors are streamed from file to file; every kept one is the same bit for bit. A checkpoint
    that was made like this before is kept.

    Args:
        workspace: run directory and model.
        settings: what to remove.
        redundancy: how to search where the importance file is missing or too short.
        on_round: called for every round that has to be searched first.

    Raises:
        TargetError: target or block list out of range.
        OutputExistsError: the output directory holds something else.
        ArtifactError: an importance file or calibration of another model or other settings.
        CheckpointError: the source's files are not whole, or a kept weight is NaN or infinite.
        LlmpruneError: the disk is full; what was there before is intact.
        VerificationError: the written checkpoint does not compute what the bypassed source does.
    """
    if settings.out is not None:  # before anything that takes long
        check_output(workspace, settings.out, force=settings.force)
    require_removable(load_config(workspace.directory, trust_remote_code=workspace.trust_remote_code))
    removal = choose_removal(workspace, settings, redundancy, on_round)
    kept = kept_blocks(workspace.model.num_blocks, removal.removed)
    out = settings.out or _default_out(workspace, removal, len(kept))
    check_output(workspace, out, force=settings.force)
    source = workspace.open_checkpoint()
    with workspace.writing():
        if (record := _made_before(workspace, removal, settings, out)) is not None:
            workspace.progress.say(f"{out} is complete already: nothing to do.")
            seconds = 0.0
        else:
            record, seconds = _write(workspace, source, removal, kept, out, settings)
        workspace.run.remember_checkpoint(out)
    return RemovalReport(out, record, _stored_bytes(workspace, source), seconds)


def _stored_bytes(workspace: Workspace, source: Checkpoint) -> int:
    """Weight bytes of the whole source; where shards were left out, as many as its parameters take."""
    if not source.elsewhere:
        return source.nbytes
    return workspace.model.num_parameters * stored_dtype(source).itemsize


def _write(
    workspace: Workspace,
    source: Checkpoint,
    removal: BlockRemoval,
    kept: Sequence[int],
    out: Path,
    settings: RemovalSettings,
) -> tuple[PruningRecord, float]:
    """Write the checkpoint, all of it or nothing: its record, and the wall time of streaming the tensors."""
    with atomic_directory(out, overwrite=settings.force) as partial:
        copied = _write_weights(workspace, source, kept, partial, settings.max_shard_bytes)
        carry_files(workspace.directory, partial)
        record = _record(workspace, removal, kept, copied, out)
        if settings.verify:
            record = record.model_copy(
                update={"verification": verify_checkpoint(workspace, partial, removed=removal.removed)}
            )
        write_json_atomic(partial / RECORD_NAME, record.model_dump(mode="json"))
        write_text_atomic(partial / "README.md", model_card(CardFacts(record, licence_of(workspace.directory))))
    return record, copied.seconds


def _made_before(
    workspace: Workspace, removal: BlockRemoval, settings: RemovalSettings, out: Path
) -> PruningRecord | None:
    """The record of a checkpoint in ``out`` that lacks just these blocks of this model; None if it is another."""
    if settings.force or not (out / RECORD_NAME).is_file():
        return None
    try:
        record = PruningRecord.read(out / RECORD_NAME)
        open_checkpoint(out)
    except (ArtifactError, CheckpointError):
        return None
    same_source = record.source.fingerprint == workspace.model.fingerprint
    same_blocks = record.removal is not None and sorted(record.removal.removed) == sorted(removal.removed)
    verified = record.verification is not None or not settings.verify
    return record if same_source and same_blocks and verified else None


def choose_removal(
    workspace: Workspace,
    settings: RemovalSettings,
    redundancy: RedundancySettings | None = None,
    on_round: Callable[[RoundRecord], None] = lambda _: None,
) -> BlockRemoval:
    """The blocks to remove, from the command line or from the importance file; searched for now if need be.

    Args:
        workspace: run directory and model.
        settings: a target, or blocks by hand.
        redundancy: how to search where the importance file is missing; one that is too short goes on as it began.
        on_round: called for every round that has to be searched.

    Raises:
        TargetError: target or block list out of range.
        ArtifactError: an importance file or calibration of another model or other settings.
    """
    depth = workspace.model.num_blocks
    if settings.blocks is not None:
        check_blocks(settings.blocks, num_blocks=depth, source="--blocks")
        return BlockRemoval(removed=settings.blocks)
    path = workspace.run.importance
    known = Importance.read(path) if path.exists() else None
    if known is not None:
        known.check_belongs(workspace.model, path)
        ends = known.settings
        count = removal_count(
            settings.target,
            num_blocks=depth,
            protect_first=ends.protect_first,
            protect_last=ends.protect_last,
        )
        if known.has_best(count):
            return _prefix(known, count, path)
        redundancy = _as_recorded(known)
    redundancy = redundancy or RedundancySettings()
    workspace.progress.say(
        f"{path} does not tell which blocks to remove for {settings.target} yet: running verify-redundancy first."
    )
    searched = verify_redundancy(workspace, replace(redundancy, target=settings.target), on_round=on_round)
    return _prefix(searched, len(searched.order), path)


def _as_recorded(known: Importance) -> RedundancySettings:
    """The settings with which a search that is too short must go on."""
    return RedundancySettings(
        metric=known.settings.metric,
        search=known.settings.search or Search.ELIMINATE,
        protect_first=known.settings.protect_first,
        protect_last=known.settings.protect_last,
        error_rate=known.settings.error_rate or ERROR_RATE,
    )


def _prefix(known: Importance, count: int, path: Path) -> BlockRemoval:
    """The first ``count`` blocks of a ranking."""
    return BlockRemoval(
        removed=known.order[:count],
        metric=known.settings.metric,
        importance=sha256_of(path),
        calibration=f"{known.num_windows} windows of {known.seq_len} tokens of {known.corpus.name}",
        dense_loss=known.dense_loss,
        pruned_loss=known.rounds[count - 1].loss if known.rounds else None,
    )


def _default_out(workspace: Workspace, removal: BlockRemoval, kept: int) -> Path:
    """Where a result goes by itself: named after the model and the blocks that stay."""
    name = workspace.model.name.split("@")[0].rsplit("/", 1)[-1].removesuffix(".gguf")
    chosen = removal.metric or "-".join(map(str, sorted(removal.removed)))
    return workspace.run.path / f"{name}-{kept}of{workspace.model.num_blocks}-{chosen}"


def _write_weights(
    workspace: Workspace, source: Checkpoint, kept: Sequence[int], partial: Path, max_shard_bytes: int
) -> CopyReport:
    """Stream the kept tensors into ``partial``, and write the config that goes with them."""
    config = load_config(workspace.directory, trust_remote_code=workspace.trust_remote_code)
    raw = json.loads((workspace.directory / "config.json").read_text(encoding="utf-8"))
    model = empty_model(config, dtype=torch.float32, trust_remote_code=workspace.trust_remote_code)
    path, blocks = find_blocks(model, config)
    names = name_blocks(source.names, path=path, num_blocks=len(blocks))
    renames = renamed_tensors(names, kept)
    for copy in tied_copies(model, source):
        renames.pop(copy, None)
    write_json_atomic(partial / "config.json", cut_config(raw, config, kept))
    total = sum(source.tensors[name].nbytes for name in renames)
    with workspace.progress.task("Writing", total) as advance:
        return copy_tensors(
            source, renames, partial, max_shard_bytes=max_shard_bytes, progress=advance, check_finite=True
        )


def _record(
    workspace: Workspace, removal: BlockRemoval, kept: Sequence[int], copied: CopyReport, out: Path
) -> PruningRecord:
    earlier = workspace.directory / RECORD_NAME
    blocks = ",".join(map(str, sorted(removal.removed)))
    return PruningRecord(
        source=workspace.model,
        source_record=PruningRecord.read(earlier) if earlier.exists() else None,
        removal=removal,
        num_blocks=len(kept),
        num_parameters=copied.num_parameters,
        weight_bytes=copied.nbytes,
        command=f"llmprune remove-blocks {workspace.model.name} --blocks {blocks} --out {out.name}",
    )


def parse_blocks(text: str | None) -> tuple[int, ...] | None:
    """Read ``3,7,12`` as block indices; None stays None.

    Raises:
        TargetError: something else than whole numbers and commas.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise TargetError(f"'{text}' is not a list of block indices; type for example --blocks 3,7,12.") from None
