"""``llmprune global-prune``: zeros in a model's weights, block by block, each FFN as one problem."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from llmprune.algorithms.feed_forward.sparsellm import FfnSettings
from llmprune.artifacts.activations import Calibration, open_calibration
from llmprune.artifacts.records.pruning import PruningRecord
from llmprune.artifacts.records.weight_sparsity import BlockRecord, SparsitySettings
from llmprune.choices import Method, Reference
from llmprune.errors import ArtifactError, NumericalError, OutputExistsError, TargetError
from llmprune.evaluation.sparsity import measure_sparsity
from llmprune.models.compute import bfloat16_products, dtype_name
from llmprune.models.loading import Decoder
from llmprune.models.open_block import block_linears
from llmprune.stages.calibration import CalibrationSettings, calibrate, require_same_text
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.output.place import check_output
from llmprune.stages.output.record import made_before
from llmprune.stages.weight_pruning.block_pass import (
    PassSettings,
    PruningPass,
    PruningPassState,
    is_left_by_a_pass,
    stopped_pass,
)
from llmprune.stages.weight_pruning.selection import check_shapes, parse_layers
from llmprune.stages.weight_pruning.settings import PruningSettings, default_name
from llmprune.stages.weight_pruning.write import write_checkpoint


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
    on_block: Callable[[BlockRecord], None] = lambda _: None,
) -> PruningReport:
    """Write a checkpoint with zeros in its weights.

    Runs ``calibrate`` first where no calibration is there. An interrupted run goes on at the next block and
    ends with the same bytes. A checkpoint that was made like this before is kept.

    Args:
        workspace: run directory and model.
        settings: what to prune and how.
        calibration: how to calibrate where that is still to be done.
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
    out = settings.out or workspace.run.path / default_name(settings, model=workspace.model.name)
    check_output(workspace, out, force=settings.force)
    blocks = parse_layers(settings.selection.layers, depth=workspace.model.num_blocks)
    widest = check_shapes(workspace.open_shell(), blocks, settings.selection, settings.pattern)
    folder = _working_folder(out)
    known = _calibrated(workspace, settings, calibration or CalibrationSettings())
    workspace = workspace.going_on(known.directory, known.manifest.dtype)
    recorded = settings.recorded(blocks, known.manifest, dtype=dtype_name(workspace.dtype))
    with workspace.writing():
        record = made_before(
            workspace, out, same=lambda known: _is_same(known, recorded), verify=settings.verify, force=settings.force
        )
        if record is None:
            _remark_few_tokens(workspace, recorded, widest)
            record = _make(workspace, settings, recorded, known, folder, out, on_block)
        _remove_finished(folder, recorded)
        workspace.run.remember_checkpoint(out)
    return PruningReport(out, record)


def _is_same(record: PruningRecord, recorded: SparsitySettings) -> bool:
    """Whether a record is of a pruning with just these settings."""
    return record.sparsity is not None and record.sparsity.settings == recorded


def _working_folder(out: Path) -> Path:
    """Where the work on ``out`` goes on; what lies there may only be an earlier pass's."""
    folder = out.absolute().with_name(f"{out.absolute().name}.partial")
    if folder.exists() and not is_left_by_a_pass(folder):
        raise OutputExistsError(
            f"{folder}, where the work would go on, holds something else; move it, or give another --out."
        )
    return folder


def _remove_finished(folder: Path, recorded: SparsitySettings) -> None:
    """Remove the pass behind a checkpoint that is whole; one with other settings may still be gone on with."""
    stopped = stopped_pass(folder)
    if stopped is not None and stopped.settings == recorded:
        shutil.rmtree(folder)


def _make(
    workspace: Workspace,
    settings: PruningSettings,
    recorded: SparsitySettings,
    known: Calibration,
    folder: Path,
    out: Path,
    on_block: Callable[[BlockRecord], None],
) -> PruningRecord:
    """Prune, and write the checkpoint, all of it or nothing."""
    workspace.remark_slow_dtype()
    decoder = workspace.open_decoder()
    tokens = known.tokens()[: settings.samples]
    before = _zeros_before(workspace, decoder, recorded, settings)
    work = PruningPass(
        decoder,
        tokens,
        _pass_settings(settings, recorded.layers, decoder),
        folder=folder,
        begin=PruningPassState(model=workspace.model.fingerprint, settings=recorded),
        batch=max(1, workspace.compute.batch_tokens // tokens.shape[1]),
        progress=workspace.progress,
    )
    try:
        state = work.prune_blocks(on_block)
    except NumericalError:  # the same command would end here again: nothing is worth keeping
        shutil.rmtree(folder, ignore_errors=True)
        raise
    del work, decoder
    return write_checkpoint(workspace, settings, recorded, state, folder=folder, out=out, zeros_before=before)


def _pass_settings(settings: PruningSettings, blocks: Sequence[int], decoder: Decoder) -> PassSettings:
    some = settings.pattern.ratio > 0  # with no zeros asked for no weight moves either
    reference = settings.reference if some else Reference.PRUNED
    ffn = FfnSettings(settings.layer, settings.coefficients, reference=reference, rounds=settings.rounds)
    if decoder.dtype == torch.bfloat16:  # the activations are rounded to it already
        ffn = replace(ffn, products=bfloat16_products)
    return PassSettings(ffn, some and settings.method is Method.SPARSELLM, settings.selection, tuple(blocks))


def _calibrated(workspace: Workspace, settings: PruningSettings, calibration: CalibrationSettings) -> Calibration:
    """The calibration artifact, made now where the run has none."""
    place = settings.calibration or workspace.run.calibration
    if settings.calibration is not None or place.exists():
        known = open_calibration(place)
    else:
        workspace.progress.say(f"{workspace.run.path} holds no calibration yet: running calibrate first.")
        samples, seq_len = settings.samples or calibration.samples, settings.seq_len or calibration.seq_len
        known = calibrate(workspace, replace(calibration, samples=samples, seq_len=seq_len))
    require_same_text(workspace, known)
    _require_enough(known, settings)
    return known


def _require_enough(known: Calibration, settings: PruningSettings) -> None:
    """See that a calibration has the windows that were asked for."""
    windows, seq_len = known.manifest.num_windows, known.manifest.seq_len
    if settings.seq_len not in (None, seq_len):
        raise ArtifactError(
            f"{known.directory} has windows of {seq_len} tokens, not of {settings.seq_len}; type --seq-len {seq_len}, "
            f"or --run OTHER to calibrate anew."
        )
    if settings.samples is not None and settings.samples > windows:
        raise TargetError(
            f"--samples {settings.samples} is more than the {windows} windows of {known.directory}; "
            f"type --samples {windows} or less, or calibrate in another run: --run OTHER."
        )


def _remark_few_tokens(workspace: Workspace, recorded: SparsitySettings, widest: int) -> None:
    tokens = recorded.windows * recorded.seq_len
    if tokens < widest:
        workspace.progress.say(
            f"{tokens} calibration tokens are fewer than the {widest} inputs of the widest matrix: its Gram matrix is "
            f"singular, and the damping ({recorded.damping:g} of its mean diagonal) decides what the tokens leave "
            "open. More --samples would be better."
        )


def _zeros_before(workspace: Workspace, decoder: Decoder, recorded: SparsitySettings, settings: PruningSettings) -> int:
    """Zeros that the source has in the selected matrices; says so where there are many."""
    names = [
        slot.tensor
        for block in recorded.layers
        for slot in block_linears(decoder, block).values()
        if settings.selection.takes(slot)
    ]
    counted = measure_sparsity(decoder.checkpoint, names)
    if counted.ratio > 0.01:
        workspace.progress.say(f"The model is sparse already: {counted.ratio:.1%} of the weights to prune are zero.")
    return counted.zeros
