"""``llmprune heal``: solve weights of a pruned checkpoint anew, towards the hidden states of the dense model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.artifacts.checkpoints.copying import DEFAULT_SHARD_BYTES
from llmprune.artifacts.records.command_line import unless_usual
from llmprune.artifacts.records.differences import differences
from llmprune.artifacts.records.healing import BlockHealing
from llmprune.artifacts.records.provenance import ModelIdentity
from llmprune.artifacts.records.pruning import RECORD_NAME, PruningRecord, blocks_left
from llmprune.errors import ArtifactError
from llmprune.models.decoder import Decoder
from llmprune.models.source import is_hub_id, origin_of
from llmprune.stages.calibration import CalibrationChoice, CalibrationSettings
from llmprune.stages.common.command_line import model_argument, recorded_command
from llmprune.stages.common.elsewhere import opening_elsewhere
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.healing.plan import (
    HealedWeights,
    HealingPlan,
    heal_student,
    healing_folder,
    plan_healing,
    remove_finished,
)
from llmprune.stages.healing.settings import HealSettings
from llmprune.stages.healing.state import HealingPassState
from llmprune.stages.healing.student import Student, of_its_own
from llmprune.stages.output.finish import finish_checkpoint
from llmprune.stages.output.place import check_output, new_checkpoint
from llmprune.stages.output.record import made_before, new_record
from llmprune.stages.output.whole_copy import copy_whole
from llmprune.stages.passes import PassFolder
from llmprune.text.windows import TokenWindows


@dataclass(frozen=True)
class HealingReport:
    """What was written.

    Attributes:
        directory: the healed checkpoint.
        record: its ``llmprune.json``.
    """

    directory: Path
    record: PruningRecord


def heal(
    workspace: Workspace,
    checkpoint: str,
    settings: HealSettings,
    *,
    calibration: CalibrationSettings | None = None,
    windows: TokenWindows | None = None,
    on_block: Callable[[BlockHealing], None] = lambda _: None,
) -> HealingReport:
    """Write a checkpoint in which blocks make good what removed blocks or zeros have taken away.

    Runs ``calibrate`` first where no calibration is there. An interrupted run goes on at the next block and ends with
    the same bytes. A checkpoint that was made like this before is kept.

    Args:
        workspace: run directory and the dense model.
        checkpoint: the pruned one, made from the dense model by llmprune: a directory or a Hub id.
        settings: which blocks, and where to write.
        calibration: how to calibrate where that is still to be done.
        windows: to heal on; None: the run's calibration.
        on_block: called for every block as it finishes.

    Raises:
        ArtifactError: the checkpoint has no record, or was made from another model; or the calibration was.
        TargetError: nothing to heal, or a number out of range.
        OutputExistsError: the output directory holds something else, or what was healed with other settings.
        CheckpointError: files that are not whole.
        NumericalError: activations or Gram matrices that cannot be solved with; names the layers.
        VerificationError: the written checkpoint does not compute what it should.
        LlmpruneError: the disk is full.
    """
    pruned = workspace.beside(checkpoint)
    history = PruningRecord.read(pruned.directory / RECORD_NAME)
    origins = blocks_left(history, workspace.model.fingerprint)
    if origins is None:
        raise ArtifactError(
            f"{checkpoint} was made from {history.source.name}, not from {workspace.model.name} as it is in "
            f"{workspace.directory}; type `teacher=MODEL` with the model that it was made from, and a `run` of that."
        )
    out = settings.out or workspace.run.path / default_name(pruned.model, settings.scope.value)
    for space in (workspace, pruned):
        check_output(space, out, force=settings.force)
    folder = healing_folder(out, replace=settings.force)
    choice = CalibrationChoice(settings.calibration, settings.samples, settings.seq_len, calibration)
    workspace, plan = plan_healing(workspace, settings.scope, origins, choice, windows)
    pruned = workspace.beside(checkpoint)
    with workspace.run.recorded(workspace.record), folder.held():
        for space in (workspace, pruned):
            check_output(space, out, force=settings.force)
        record = made_before(pruned, out, differs=partial(_other, plan), verify=settings.verify, force=settings.force)
        if record is None:
            workspace.remark_slow_dtype()
            healed = _healed(workspace, pruned, plan, frozenset(history.zeroed_tensors), folder, on_block)
            kept = plan.text.is_kept_in(settings.calibration or workspace.run.calibration)
            command = _command(workspace, pruned, checkpoint, settings, out) if kept else None
            record = _write(pruned, healed, settings, out, command)
        remove_finished(plan, folder)
        workspace.run.remember_checkpoint(out, workspace.record)
    return HealingReport(out, record)


def default_name(model: ModelIdentity, scope: str) -> str:
    """The name of a result without ``--out``: after the pruned model and the blocks that were healed."""
    return f"{model.own_name}-healed-{scope}"


def _other(plan: HealingPlan, record: PruningRecord) -> str | None:
    """How a record is of a healing with other settings than these."""
    return "not healed" if record.healing is None else differences(record.healing.settings, plan.settings)


def _healed(
    workspace: Workspace,
    pruned: Workspace,
    plan: HealingPlan,
    masked: frozenset[str],
    folder: PassFolder[HealingPassState],
    on_block: Callable[[BlockHealing], None],
) -> HealedWeights:
    known = (plan.settings.origins, workspace.model.num_blocks, masked)
    student, dense = _opened(workspace.open_decoder, pruned.open_decoder, *known)
    return heal_student(
        student,
        dense,
        plan,
        model=pruned.model.fingerprint,
        folder=folder,
        compute=workspace.compute,
        progress=workspace.progress,
        on_block=on_block,
        elsewhere=partial(_opened, opening_elsewhere(workspace), opening_elsewhere(pruned), *known),
    )


def _opened(
    dense: Callable[[], Decoder],
    pruned: Callable[[], Decoder],
    origins: tuple[int, ...],
    depth: int,
    masked: frozenset[str],
) -> tuple[Student, Decoder]:
    """Both models, by what opens them."""
    teacher = dense()
    return of_its_own(pruned(), origins, depth=depth, masked=masked), teacher


def _write(
    pruned: Workspace, healed: HealedWeights, settings: HealSettings, out: Path, command: str | None
) -> PruningRecord:
    """Put the healed and all other weights into one checkpoint, and verify it: all of it or nothing."""
    source = open_checkpoint(pruned.directory).overlaid(healed.files)
    with new_checkpoint(out, force=settings.force) as partial:
        copied = copy_whole(pruned, source, partial, max_shard_bytes=settings.max_shard_bytes)
        record = new_record(pruned, copied, healing=healed.record, command=command)
        return finish_checkpoint(pruned, partial, record, verify=settings.verify, weights=healed.files)


def _command(workspace: Workspace, pruned: Workspace, checkpoint: str, settings: HealSettings, out: Path) -> str:
    """The command that makes the checkpoint again."""
    usual = HealSettings()
    return recorded_command(
        workspace,
        "heal",
        checkpoint if is_hub_id(origin_of(checkpoint)) else pruned.directory,
        teacher=model_argument(workspace),
        scope=unless_usual(settings.scope.value, usual.scope.value),
        samples=settings.samples,
        seq_len=settings.seq_len,
        calibration=settings.calibration,
        out=out,
        max_shard_size=unless_usual(settings.max_shard_bytes, DEFAULT_SHARD_BYTES),
        no_verify=not settings.verify,
    )
