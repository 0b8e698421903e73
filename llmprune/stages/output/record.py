"""``llmprune.json`` of a new checkpoint, the card beside it, and what an earlier command left in its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.artifacts.checkpoints.copying import CopyReport
from llmprune.artifacts.files.atomic import write_text_atomic
from llmprune.artifacts.records.environment import Environment
from llmprune.artifacts.records.healing import Healing
from llmprune.artifacts.records.provenance import FileRecord
from llmprune.artifacts.records.pruning import (
    RECORD_NAME,
    BlockRemoval,
    ExpertRemoval,
    MaskApplication,
    PruningRecord,
)
from llmprune.artifacts.records.weight_sparsity import WeightSparsity
from llmprune.errors import ArtifactError, ChangedError, CheckpointError, OutputExistsError
from llmprune.publishing.card import CardFacts, model_card
from llmprune.publishing.contents import CARD_NAME
from llmprune.publishing.licence import licence_of
from llmprune.stages.common.intact import written_files
from llmprune.stages.common.workspace import Workspace

_ELSEWHERE = "give another directory with `out`, or replace it with `force=True`."


def made_before(
    workspace: Workspace, out: Path, *, differs: Callable[[PruningRecord], str | None], verify: bool, force: bool
) -> PruningRecord | None:
    """The record of the checkpoint in ``out``, if it is the one to be made; None if there is none, or ``force`` is set.

    Args:
        workspace: the source model.
        out: the new checkpoint's directory, see ``check_output``.
        differs: how a record is of another pruning, in words; None: it is of the same.
        verify: whether the checkpoint must have been verified.
        force: replace whatever lies there.

    Raises:
        OutputExistsError: ``out`` holds a checkpoint that is damaged, of another model, pruned with other settings, or
            not verified.
    """
    if force or not (out / RECORD_NAME).is_file():
        return None
    try:
        record = PruningRecord.read(out / RECORD_NAME)
        open_checkpoint(out)
    except (ArtifactError, CheckpointError) as error:
        raise OutputExistsError(f"{out} holds a checkpoint that is damaged ({error}); {_ELSEWHERE}") from error
    if record.source.fingerprint != workspace.model.fingerprint:
        raise OutputExistsError(f"{out} holds a checkpoint made from another model; {_ELSEWHERE}")
    if (how := differs(record)) is not None:
        raise OutputExistsError(f"{out} holds a checkpoint that was pruned with other settings ({how}); {_ELSEWHERE}")
    if verify and record.verification is None:
        raise OutputExistsError(f"{out} holds the same checkpoint, not verified; type `verify=False`, or {_ELSEWHERE}")
    try:
        workspace.intact.require(out, workspace.progress)
    except ChangedError as error:
        raise OutputExistsError(f"{error.found}; {_ELSEWHERE}") from error
    workspace.progress.say(f"{out} is complete already: nothing to do.")
    return record


def new_record(
    workspace: Workspace,
    copied: CopyReport,
    *,
    command: str | None,
    environment: Environment | None = None,
    removal: BlockRemoval | None = None,
    experts: ExpertRemoval | None = None,
    sparsity: WeightSparsity | None = None,
    masked: MaskApplication | None = None,
    healing: Healing | None = None,
) -> PruningRecord:
    """The record of a checkpoint whose files were just written, all but this one and the card; not verified yet.

    Args:
        workspace: the source model.
        copied: what was written.
        command: what makes it again; None: no command does.
        environment: what it was computed with; None: that of this process.
        removal: which blocks were removed, if any.
        experts: which experts were removed, if any.
        sparsity: which weights were pruned, if any.
        masked: which weights a mask made zero, if any.
        healing: which weights were solved anew, if any.

    Raises:
        ArtifactError: the source's own record cannot be read.
    """
    earlier = workspace.directory / RECORD_NAME
    return PruningRecord(
        source=workspace.model,
        source_record=PruningRecord.read(earlier) if earlier.exists() else None,
        removal=removal,
        experts=experts,
        sparsity=sparsity,
        masked=masked,
        healing=healing,
        num_blocks=workspace.model.num_blocks - (len(removal.removed) if removal is not None else 0),
        num_parameters=copied.num_parameters,
        weight_bytes=copied.nbytes,
        command=command,
        environment=environment or Environment.now(),
        written=written_files(copied.directory, {name: FileRecord.of(one) for name, one in copied.files.items()}),
    )


def write_record(workspace: Workspace, record: PruningRecord, directory: Path) -> None:
    """Write ``llmprune.json`` and the model card into a checkpoint's directory."""
    record.write(directory / RECORD_NAME)
    write_text_atomic(directory / CARD_NAME, model_card(CardFacts(record, licence_of(workspace.directory))))
