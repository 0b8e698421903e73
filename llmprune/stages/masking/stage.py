"""``llmprune apply-mask``: put the zeros of a pruned checkpoint into a fine-tuned sibling of its base model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint, open_checkpoint
from llmprune.artifacts.checkpoints.copying import DEFAULT_SHARD_BYTES
from llmprune.artifacts.files.digests import FileDigest
from llmprune.artifacts.files.temporary import scratch_directory
from llmprune.artifacts.masks.mask import MASK_NAME, Mask, read_mask, write_mask
from llmprune.artifacts.masks.masking import check_fits, require_masked, zeroing
from llmprune.artifacts.records.command_line import unless_usual
from llmprune.artifacts.records.pruning import RECORD_NAME, MaskApplication, PruningRecord
from llmprune.errors import ArtifactError
from llmprune.evaluation.sparsity import measure_sparsity
from llmprune.stages.common.command_line import model_argument, recorded_command
from llmprune.stages.common.intact import Intact
from llmprune.stages.common.progress import Progress
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.output.finish import finish_checkpoint
from llmprune.stages.output.place import check_output, new_checkpoint
from llmprune.stages.output.record import made_before, new_record
from llmprune.stages.output.whole_copy import copy_whole


@dataclass(frozen=True)
class MaskSettings:
    """Which mask to apply to the model, and where to write the result.

    Attributes:
        mask: the mask file, or a weight-pruned checkpoint's directory.
        out: the new checkpoint's directory; None: in the run directory, named after the model.
        max_shard_bytes: largest weight file.
        verify: compare the result with the source, in the files and (loaded again) in what it computes.
        force: replace an output directory that holds another checkpoint.
    """

    mask: Path
    out: Path | None = None
    max_shard_bytes: int = DEFAULT_SHARD_BYTES
    verify: bool = True
    force: bool = False


@dataclass(frozen=True)
class MaskingReport:
    """What was written.

    Attributes:
        directory: the masked checkpoint.
        record: its ``llmprune.json``.
    """

    directory: Path
    record: PruningRecord


def apply_mask(workspace: Workspace, settings: MaskSettings) -> MaskingReport:
    """Write a checkpoint whose weights are zero where a mask says so, and the model's own bit for bit elsewhere.

    Tensors are streamed from file to file. Weights that stay are not refitted. A checkpoint that was made
    like this before is kept.

    Args:
        workspace: run directory and model.
        settings: which mask, and where to write.

    Raises:
        ArtifactError: no mask, or one of a model with other weights, shapes or blocks.
        CheckpointError: the source's files or the mask's are not whole, or a weight is NaN or infinite.
        OutputExistsError: the output directory holds something else.
        VerificationError: the written checkpoint is not what it should be.
        LlmpruneError: the disk is full; what was there before is intact.
    """
    opening = opened_mask(
        settings.mask, scratch=workspace.run.path, intact=workspace.intact, progress=workspace.progress
    )
    with workspace.run.recorded(workspace.record), opening as mask:
        source = open_checkpoint(workspace.directory)
        check_fits(mask, source, called=settings.mask)
        out = settings.out or workspace.run.path / _default_name(workspace, mask)
        check_output(workspace, out, force=settings.force)
        record = made_before(
            workspace, out, differs=partial(_other, mask), verify=settings.verify, force=settings.force
        )
        if record is None:
            record = _write(workspace, source, mask, out, settings)
        workspace.run.remember_checkpoint(out, workspace.record)
    return MaskingReport(out, record)


@contextmanager
def opened_mask(given: Path, *, scratch: Path, intact: Intact, progress: Progress) -> Iterator[Mask]:
    """The mask in a file, or that of a pruned checkpoint: its published mask file, or one made now from its weights.

    Args:
        given: the mask file, or a checkpoint's directory.
        scratch: an existing folder for a mask that is only there for as long as the context lasts.
        intact: what is checked of the checkpoint.
        progress: who listens.

    Raises:
        ArtifactError: no mask, and no checkpoint with pruned weights.
        CheckpointError: the file or the checkpoint is not whole, or not what llmprune wrote.
    """
    if not given.is_dir():
        yield read_mask(given)
    elif (given / MASK_NAME).is_file():
        yield read_mask(given / MASK_NAME)
    else:
        record = PruningRecord.read(given / RECORD_NAME)
        if not record.zeroed_tensors:
            raise ArtifactError(
                f"{given} has no pruned weights, so no mask can be read from it; type the directory of a checkpoint "
                "that global-prune wrote, or a mask file."
            )
        intact.require(given, progress)
        with scratch_directory(scratch) as folder:
            path = folder / MASK_NAME
            write_mask(open_checkpoint(given), record.zeroed_tensors, path, pattern=record.zeros_pattern)
            yield read_mask(path)


def _write(workspace: Workspace, source: Checkpoint, mask: Mask, out: Path, settings: MaskSettings) -> PruningRecord:
    """Copy with zeros, verify: all of it or nothing."""
    with new_checkpoint(out, force=settings.force) as partial:
        with zeroing(mask) as zero:
            copied = copy_whole(workspace, source, partial, max_shard_bytes=settings.max_shard_bytes, change=zero)
        written = open_checkpoint(partial)
        masked = _application(source, written, mask, settings.mask)
        record = new_record(workspace, copied, masked=masked, command=_command(workspace, settings, out))
        if settings.verify:
            require_masked(source, written, mask)
        return finish_checkpoint(workspace, partial, record, verify=settings.verify, weights=written.shards)


def _command(workspace: Workspace, settings: MaskSettings, out: Path) -> str:
    """The command that makes the checkpoint again."""
    return recorded_command(
        workspace,
        "apply-mask",
        model_argument(workspace),
        settings.mask,
        out=out,
        max_shard_size=unless_usual(settings.max_shard_bytes, DEFAULT_SHARD_BYTES),
        no_verify=not settings.verify,
    )


def _application(source: Checkpoint, written: Checkpoint, mask: Mask, given: Path) -> MaskApplication:
    """The result, with the zeros counted in the files."""
    before, after = (measure_sparsity(checkpoint, mask.tensors) for checkpoint in (source, written))
    return MaskApplication(
        mask=given.resolve().name,
        sha256=FileDigest.of_file(mask.path).sha256,
        fingerprint=mask.fingerprint,
        pattern=mask.pattern,
        tensors=tuple(mask.tensors),
        numel=after.parameters,
        zeros_before=before.zeros,
        zeros=after.zeros,
    )


def _other(mask: Mask, record: PruningRecord) -> str | None:
    """How a record is not of the application of this mask."""
    if record.masked is None:
        return "no mask applied"
    return None if record.masked.sha256 == FileDigest.of_file(mask.path).sha256 else "another mask"


def _default_name(workspace: Workspace, mask: Mask) -> str:
    """The name of a result without ``--out``: after the model and the mask's pattern."""
    pattern = (mask.pattern or "").replace("%", "pct").replace(":", "of")
    known = re.fullmatch(r"[0-9.]+pct|[0-9]+of[0-9]+", pattern)
    return f"{workspace.model.own_name}-masked" + (f"-{pattern}" if known else "")
