"""``llmprune global-prune``: zeros in a model's weights, block by block, each FFN as one problem."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

import torch
from torch import Tensor

from llmprune.algorithms.layer import LayerMethod, LayerSettings
from llmprune.algorithms.patterns import Pattern, SemiStructured, Unstructured
from llmprune.algorithms.sparsellm import FfnSettings, Targets
from llmprune.algorithms.subproblems import Coefficients
from llmprune.artifacts.activations import Calibration, open_calibration
from llmprune.artifacts.atomic import atomic_directory, write_json_atomic, write_text_atomic
from llmprune.artifacts.checkpoint import Checkpoint, open_checkpoint
from llmprune.artifacts.copying import DEFAULT_SHARD_BYTES, CopyReport, copy_tensors
from llmprune.artifacts.pruning_record import RECORD_NAME, PruningRecord
from llmprune.artifacts.sparsity_record import BlockRecord, SparsitySettings, WeightSparsity
from llmprune.errors import ArtifactError, CheckpointError, TargetError
from llmprune.evaluation.sparsity import measure_sparsity
from llmprune.hub.card import model_card
from llmprune.models.compute import bfloat16_products, dtype_name
from llmprune.models.loading import Decoder
from llmprune.models.open_block import block_linears
from llmprune.stages.calibrate import CalibrationSettings, calibrate, require_same_model
from llmprune.stages.carried_files import carry_files
from llmprune.stages.layer_selection import Selection, check_shapes, parse_layers
from llmprune.stages.options import require_at_least
from llmprune.stages.output_place import check_output
from llmprune.stages.pruning_pass import PassSettings, PassState, PruningPass
from llmprune.stages.verification import verify_checkpoint
from llmprune.stages.workspace import Workspace


class Method(Enum):
    """What prunes: one matrix after another, or (SparseLLM) each FFN as one problem on top of SparseGPT."""

    SPARSELLM = "sparsellm"
    SPARSEGPT = "sparsegpt"
    WANDA = "wanda"
    MAGNITUDE = "magnitude"

    @property
    def of_layers(self) -> LayerMethod:
        """What prunes a single matrix."""
        return LayerMethod.SPARSEGPT if self is Method.SPARSELLM else LayerMethod(self.value)


@dataclass(frozen=True)
class PruningSettings:
    """What to prune, how, and where to write the result.

    Attributes:
        pattern: a share of zeros, or N zeros in every M inputs.
        method: what prunes.
        selection: which blocks and matrices.
        targets: whose activations are to be reproduced.
        coefficients: of SparseLLM.
        rounds: most rounds of SparseLLM, round 0 (SparseGPT's weights) among them.
        damping: of Gram matrices, relative to their mean diagonal.
        block_size: columns that SparseGPT prunes at a time.
        refit_steps: of conjugate gradients on the fixed mask; 0: no refit.
        samples: use the first so many calibration windows; None: all.
        calibration: another calibration artifact than the run's own.
        out: the new checkpoint's directory; None: in the run directory, named after what was done.
        max_shard_bytes: largest weight file.
        verify: reload the result and compare it with the source's blocks run on the pruned weights.
        force: replace an output directory that holds another checkpoint.
    """

    pattern: Pattern = field(default_factory=lambda: Unstructured(0.5))
    method: Method = Method.SPARSELLM
    selection: Selection = field(default_factory=Selection)
    targets: Targets = Targets.DENSE
    coefficients: Coefficients = field(default_factory=Coefficients)
    rounds: int = 4
    damping: float = 0.01
    block_size: int = 128
    refit_steps: int = 10
    samples: int | None = None
    calibration: Path | None = None
    out: Path | None = None
    max_shard_bytes: int = DEFAULT_SHARD_BYTES
    verify: bool = True
    force: bool = False

    def __post_init__(self) -> None:
        require_at_least(1, rounds=self.rounds, block_size=self.block_size, samples=self.samples)
        self.layer  # noqa: B018 (its own checks)

    @property
    def layer(self) -> LayerSettings:
        """How a single matrix is pruned."""
        return LayerSettings(self.pattern, self.damping, self.block_size, self.refit_steps, self.method.of_layers)


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
        ArtifactError: a calibration of another model.
        OutputExistsError: the output directory holds something else.
        CheckpointError: the source's files are not whole.
        NumericalError: activations that are NaN, or a Gram matrix that cannot be factored; names the layers.
        VerificationError: the written checkpoint does not compute what it should.
        LlmpruneError: the disk is full.
    """
    out = settings.out or workspace.run.path / _default_name(workspace, settings)
    check_output(workspace, out, force=settings.force)
    blocks = parse_layers(settings.selection.layers, depth=workspace.model.num_blocks)
    known = _calibrated(workspace, settings, calibration or CalibrationSettings())
    recorded = _settings_record(workspace, settings, blocks, known)
    if (record := _made_before(workspace, recorded, settings, out)) is not None:
        workspace.progress.say(f"{out} is complete already: nothing to do.")
    else:
        with workspace.writing():
            record = _make(workspace, settings, recorded, known, out, on_block)
    with workspace.writing():
        workspace.run.remember_checkpoint(out)
    return PruningReport(out, record)


def _make(
    workspace: Workspace,
    settings: PruningSettings,
    recorded: SparsitySettings,
    known: Calibration,
    out: Path,
    on_block: Callable[[BlockRecord], None],
) -> PruningRecord:
    """Prune, and write the checkpoint, all of it or nothing."""
    decoder = workspace.open_decoder()
    widest = check_shapes(decoder, recorded.layers, settings.selection, settings.pattern)
    tokens = known.tokens()[: settings.samples]
    _remark_few_tokens(workspace, tokens, widest, settings)
    before = _zeros_before(workspace, decoder, recorded, settings)
    folder = out.with_name(f"{out.name}.partial")
    state = PruningPass(
        decoder,
        tokens,
        _pass_settings(settings, recorded.layers, decoder),
        folder=folder,
        begin=PassState(model=workspace.model.fingerprint, settings=recorded),
        batch=max(1, workspace.compute.batch_tokens // tokens.shape[1]),
        progress=workspace.progress,
    ).run(on_block)
    del decoder
    record = _write(workspace, settings, recorded, state, folder, out, zeros_before=before)
    shutil.rmtree(folder)
    return record


def _write(
    workspace: Workspace,
    settings: PruningSettings,
    recorded: SparsitySettings,
    state: PassState,
    folder: Path,
    out: Path,
    *,
    zeros_before: int,
) -> PruningRecord:
    """Put the finished weights and all others into one checkpoint, measure what is zero in it, and verify it."""
    source = open_checkpoint(workspace.directory)
    weights = [folder / name for name in state.weights]
    with atomic_directory(out, overwrite=settings.force) as partial:
        copied = _copy(workspace, source.overlaid(weights), partial, settings.max_shard_bytes)
        shutil.copyfile(workspace.directory / "config.json", partial / "config.json")
        carry_files(workspace.directory, partial)
        sparsity = _measured(open_checkpoint(partial), settings.pattern, recorded, state, zeros_before)
        record = _record(workspace, settings, sparsity, copied, out)
        if settings.verify:
            record = record.model_copy(update={"verification": verify_checkpoint(workspace, partial, weights=weights)})
        write_json_atomic(partial / RECORD_NAME, record.model_dump(mode="json"))
        write_text_atomic(partial / "README.md", model_card(record))
    return record


def _copy(workspace: Workspace, source: Checkpoint, partial: Path, max_shard_bytes: int) -> CopyReport:
    names = {name: name for name in source.tensors}
    with workspace.progress.task("Writing", source.nbytes) as advance:
        return copy_tensors(
            source, names, partial, max_shard_bytes=max_shard_bytes, progress=advance, check_finite=True
        )


def _measured(
    written: Checkpoint, pattern: Pattern, recorded: SparsitySettings, state: PassState, zeros_before: int
) -> WeightSparsity:
    """What came of it, the zeros counted in the written files."""
    matrices = [matrix for block in state.blocks for matrix in block.matrices]
    turned = {m.tensor for m in matrices if written.tensors[m.tensor].shape != (m.rows, m.columns)}
    counted = measure_sparsity(written, [matrix.tensor for matrix in matrices], inputs_first=turned)
    return WeightSparsity(
        settings=recorded,
        blocks=state.blocks,
        remarks=state.remarks,
        zeros_before=zeros_before,
        zeros=counted.zeros,
        numel=counted.parameters,
        seconds=sum(block.seconds for block in state.blocks),
    )


def _record(
    workspace: Workspace, settings: PruningSettings, sparsity: WeightSparsity, copied: CopyReport, out: Path
) -> PruningRecord:
    earlier = workspace.directory / RECORD_NAME
    return PruningRecord(
        source=workspace.model,
        source_record=PruningRecord.read(earlier) if earlier.exists() else None,
        sparsity=sparsity,
        num_blocks=workspace.model.num_blocks,
        num_parameters=copied.num_parameters,
        weight_bytes=copied.nbytes,
        command=_command(workspace, settings, out),
    )


def _command(workspace: Workspace, settings: PruningSettings, out: Path) -> str:
    """What to type to make it again, what is not a default written out."""
    plain = PruningSettings(pattern=settings.pattern)
    pattern = f"--pattern {settings.pattern}" if isinstance(settings.pattern, SemiStructured) else None
    options = {
        "method": (settings.method.value, plain.method.value),
        "layers": (settings.selection.layers, plain.selection.layers),
        "targets": (",".join(sorted(settings.selection.parts)), ",".join(sorted(plain.selection.parts))),
        "targets-from": (settings.targets.value, plain.targets.value),
        "alpha": (settings.coefficients.alpha, plain.coefficients.alpha),
        "beta": (settings.coefficients.beta, plain.coefficients.beta),
        "gamma": (settings.coefficients.gamma, plain.coefficients.gamma),
        "rounds": (settings.rounds, plain.rounds),
        "damping": (settings.damping, plain.damping),
        "block-size": (settings.block_size, plain.block_size),
        "samples": (settings.samples, None),
    }
    changed = [f"--{name} {value}" for name, (value, usual) in options.items() if value != usual]
    changed += [f"--exclude '{name}'" for name in settings.selection.exclude]
    changed += ["--no-refit"] if not settings.refit_steps else []
    words = ["llmprune global-prune", workspace.model.name, pattern or f"--sparsity {settings.pattern}", *changed]
    return " ".join([*words, f"--out {out.name}"])


def _settings_record(
    workspace: Workspace, settings: PruningSettings, blocks: Sequence[int], known: Calibration
) -> SparsitySettings:
    manifest = known.manifest
    if settings.samples is not None and settings.samples > manifest.num_windows:
        raise TargetError(
            f"--samples {settings.samples} is more than the {manifest.num_windows} windows of {known.directory}; "
            f"type --samples {manifest.num_windows} or less, or calibrate in another run: --run OTHER."
        )
    return SparsitySettings(
        method=settings.method.value,
        pattern=str(settings.pattern),
        targets_from=settings.targets.value,
        layers=tuple(blocks),
        parts=tuple(sorted(settings.selection.parts)),
        exclude=settings.selection.exclude,
        alpha=settings.coefficients.alpha,
        beta=settings.coefficients.beta,
        gamma=settings.coefficients.gamma,
        rounds=settings.rounds,
        damping=settings.damping,
        block_size=settings.block_size,
        refit_steps=settings.refit_steps,
        dtype=dtype_name(workspace.dtype),
        windows=settings.samples or manifest.num_windows,
        seq_len=manifest.seq_len,
        corpus=manifest.corpus.name,
        windows_fingerprint=manifest.windows_fingerprint,
    )


def _pass_settings(settings: PruningSettings, blocks: Sequence[int], decoder: Decoder) -> PassSettings:
    ffn = FfnSettings(settings.layer, settings.coefficients, targets=settings.targets, rounds=settings.rounds)
    if decoder.dtype == torch.bfloat16:  # the activations are rounded to it already
        ffn = replace(ffn, products=bfloat16_products)
    return PassSettings(ffn, settings.method is Method.SPARSELLM, settings.selection, tuple(blocks))


def _calibrated(workspace: Workspace, settings: PruningSettings, calibration: CalibrationSettings) -> Calibration:
    """The calibration artifact, made now where the run has none."""
    if settings.calibration is not None or workspace.run.calibration.exists():
        known = open_calibration(settings.calibration or workspace.run.calibration)
    else:
        workspace.progress.say(f"{workspace.run.path} holds no calibration yet: running calibrate first.")
        known = calibrate(workspace, calibration)
    require_same_model(workspace, known)
    return known


def _made_before(
    workspace: Workspace, recorded: SparsitySettings, settings: PruningSettings, out: Path
) -> PruningRecord | None:
    """The record of a checkpoint in ``out`` that was made just like this; None if it is another."""
    if settings.force or not (out / RECORD_NAME).is_file():
        return None
    try:
        record = PruningRecord.read(out / RECORD_NAME)
        open_checkpoint(out)
    except (ArtifactError, CheckpointError):
        return None
    same = record.source.fingerprint == workspace.model.fingerprint
    same = same and record.sparsity is not None and record.sparsity.settings == recorded
    return record if same and (record.verification is not None or not settings.verify) else None


def _remark_few_tokens(workspace: Workspace, tokens: Tensor, widest: int, settings: PruningSettings) -> None:
    if tokens.numel() < widest:
        workspace.progress.say(
            f"{tokens.numel()} calibration tokens are fewer than the {widest} inputs of the widest matrix: its Gram "
            f"matrix is singular, and the damping ({settings.damping:g} of its mean diagonal) decides what the tokens "
            "leave open. More --samples would be better."
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


def _default_name(workspace: Workspace, settings: PruningSettings) -> str:
    """How a result is called by itself: after the model, the method and the pattern."""
    name = workspace.model.name.split("@")[0].rsplit("/", 1)[-1].removesuffix(".gguf")
    pattern = str(settings.pattern).replace("%", "pct").replace(":", "of")
    where = "" if settings.selection == Selection() else f"-{settings.selection.layers}"
    return f"{name}-{settings.method.value}-{pattern}{where}"
