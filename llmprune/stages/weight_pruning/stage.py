"""``llmprune global-prune``: zeros in a model's weights, block by block, each FFN as one problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llmprune.artifacts.records.differences import differences
from llmprune.artifacts.records.pruning import PruningRecord
from llmprune.artifacts.records.weight_sparsity import BlockRecord, SparsitySettings
from llmprune.models.compute import dtype_name
from llmprune.stages.calibration import (
    CalibrationChoice,
    CalibrationSettings,
    CalibrationText,
    chosen_calibration,
    text_of_artifact,
    text_of_windows,
)
from llmprune.stages.common.command_line import model_argument, recorded_command
from llmprune.stages.common.elsewhere import opening_elsewhere
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.output.place import check_output
from llmprune.stages.output.record import made_before
from llmprune.stages.passes import PassFolder, working_folder
from llmprune.stages.weight_pruning.decoder_pruning import (
    count_zeros_before,
    prune_decoder,
    recorded_settings,
    remark_few_tokens,
)
from llmprune.stages.weight_pruning.selection import check_shapes, parse_layers
from llmprune.stages.weight_pruning.settings import PruningSettings, default_name, typed_options
from llmprune.stages.weight_pruning.state import PruningPassState
from llmprune.stages.weight_pruning.write import write_checkpoint
from llmprune.text.windows import TokenWindows


@dataclass(frozen=True)
class PruningReport:
    """What was written.

    Attributes:
        directory: the pruned checkpoint.
        record: its ``llmprune.json``.
    """

    directory: Path
    record: PruningRecord


def global_prune(
    workspace: Workspace,
    settings: PruningSettings,
    *,
    calibration: CalibrationSettings | None = None,
    windows: TokenWindows | None = None,
    on_block: Callable[[BlockRecord], None] = lambda _: None,
) -> PruningReport:
    """Write a checkpoint with zeros in its weights.

    Runs ``calibrate`` first where no calibration is there. An interrupted run goes on at the next block and
    ends with the same bytes. A checkpoint that was made like this before is kept.

    Args:
        workspace: run directory and model.
        settings: what to prune and how.
        calibration: how to calibrate where that is still to be done.
        windows: to prune on; None: the run's calibration.
        on_block: called for every block as it finishes.

    Raises:
        TargetError: a pattern, a layer or an option that does not fit the model.
        ArtifactError: a calibration of another model, tokenizer or sequence length.
        OutputExistsError: the output directory holds something else, or what was pruned with other settings.
        CheckpointError: the source's files are not whole.
        NumericalError: activations that are NaN, or a Gram matrix that cannot be factored; names the layers.
        VerificationError: the written checkpoint does not compute what it should.
        LlmpruneError: the disk is full.
    """
    out = settings.out or workspace.run.path / default_name(settings, model=workspace.model)
    check_output(workspace, out, force=settings.force)
    blocks = parse_layers(settings.selection.layers, depth=workspace.model.num_blocks)
    widest = check_shapes(workspace.open_shell(), blocks, settings.selection, settings.pattern)
    folder = working_folder(out)
    if windows is None:
        choice = CalibrationChoice(settings.calibration, settings.samples, settings.seq_len, calibration)
        known = chosen_calibration(workspace, choice)
        workspace = workspace.going_on(known.directory, known.manifest.dtype)
    text = text_of_artifact(known) if windows is None else text_of_windows(windows)
    recorded = recorded_settings(settings, blocks, text, dtype=dtype_name(workspace.dtype))
    work = PassFolder(folder, PruningPassState, replace=settings.force)
    with workspace.run.recorded(workspace.record), work.held():
        check_output(workspace, out, force=settings.force)
        record = made_before(
            workspace, out, differs=partial(_other, recorded), verify=settings.verify, force=settings.force
        )
        if record is None:
            remark_few_tokens(recorded, widest, workspace.progress)
            record = _make(workspace, settings, recorded, text, work, out, on_block)
        work.remove_finished(PruningPassState(model=workspace.model.fingerprint, settings=recorded))
        workspace.run.remember_checkpoint(out, workspace.record)
    return PruningReport(out, record)


def _other(settings: SparsitySettings, record: PruningRecord) -> str | None:
    """How a record is of a pruning with other settings than these."""
    return "no weights pruned" if record.sparsity is None else differences(record.sparsity.settings, settings)


def _make(
    workspace: Workspace,
    settings: PruningSettings,
    recorded: SparsitySettings,
    text: CalibrationText,
    work: PassFolder[PruningPassState],
    out: Path,
    on_block: Callable[[BlockRecord], None],
) -> PruningRecord:
    """Prune, and write the checkpoint, all of it or nothing."""
    workspace.remark_slow_dtype()
    decoder = workspace.open_decoder()
    before = count_zeros_before(decoder, recorded, settings, workspace.progress)
    state = prune_decoder(
        decoder,
        text,
        settings,
        recorded,
        model=workspace.model.fingerprint,
        folder=work,
        compute=workspace.compute,
        progress=workspace.progress,
        on_block=on_block,
        elsewhere=opening_elsewhere(workspace),
    )
    del decoder
    kept = text.is_kept_in(settings.calibration or workspace.run.calibration)
    command = _command(workspace, settings, out) if kept else None
    return write_checkpoint(
        workspace, settings, recorded, state, folder=work.path, out=out, zeros_before=before, command=command
    )


def _command(workspace: Workspace, settings: PruningSettings, out: Path) -> str:
    """The command that makes the checkpoint again."""
    return recorded_command(
        workspace,
        "global-prune",
        model_argument(workspace),
        **typed_options(settings),
        calibration=settings.calibration,
        out=out,
    )
