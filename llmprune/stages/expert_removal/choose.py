"""Which experts are removed: the least important ones of the run's measurement, which is made where it is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from llmprune.algorithms.experts import least_important
from llmprune.artifacts.activations import Calibration
from llmprune.artifacts.files.digests import FileDigest
from llmprune.artifacts.files.temporary import scratch_directory
from llmprune.artifacts.records.environment import Environment
from llmprune.artifacts.records.expert_importance import BlockExperts, ExpertImportance
from llmprune.artifacts.records.pruning import ExpertRemoval
from llmprune.choices import ExpertMetric
from llmprune.errors import ArtifactError
from llmprune.models.compute import dtype_name
from llmprune.models.expert_surgery import ExpertLayout
from llmprune.stages.calibration import drawn_calibration
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.expert_removal.measure import measure_experts


def choose_experts(
    workspace: Workspace,
    layout: ExpertLayout,
    metric: ExpertMetric,
    *,
    count: int,
    on_block: Callable[[BlockExperts], None] = lambda _: None,
) -> ExpertRemoval:
    """The ``count`` least important experts of each block, by the run's ``experts.json``.

    That is made now where it is missing, or is of another calibration than the run's own.

    Raises:
        ArtifactError: a calibration or measurement of another model.
        NumericalError: the model computes NaN or infinity.
        ModelError: experts are not given tokens and choices.
        LlmpruneError: the disk is full.
    """
    known = _known(workspace) or _measured(workspace, layout, on_block)
    removed = least_of(known.blocks, metric, count=count, groups=layout.groups)
    removal = ExpertRemoval(removed=removed, before=layout.count, left=layout.count - count)
    return _chosen(removal, known, metric, workspace.run.experts)


def named_experts(workspace: Workspace, experts: Mapping[int, tuple[int, ...]], layout: ExpertLayout) -> ExpertRemoval:
    """The removal of experts that were named. Where the run's measurement would choose just these, it says so.

    The recorded command names the experts. So it makes the same checkpoint where the run is missing, and the same
    record where the run is there. Named experts need no measurement: one that cannot be used is said.
    """
    gone = len(next(iter(experts.values())))
    removal = ExpertRemoval(removed=dict(sorted(experts.items())), before=layout.count, left=layout.count - gone)
    path = workspace.run.experts
    if not path.exists():
        return removal
    try:
        known = ExpertImportance.read(path)
        known.check_belongs(workspace.model, path)
    except ArtifactError as error:
        workspace.progress.say(f"The record of the removal will not say how these experts were measured: {error}")
        return removal
    for metric in ExpertMetric:
        if least_of(known.blocks, metric, count=gone, groups=layout.groups) == removal.removed:
            return _chosen(removal, known, metric, path)
    return removal


def _chosen(removal: ExpertRemoval, known: ExpertImportance, metric: ExpertMetric, path: Path) -> ExpertRemoval:
    """A removal with what chose it."""
    return removal.model_copy(
        update={
            "metric": metric.value,
            "importance": FileDigest.of_file(path).sha256,
            "calibration": f"{known.num_windows} windows of {known.seq_len} tokens of {known.corpus.described}",
        }
    )


def least_of(
    blocks: Iterable[BlockExperts], metric: ExpertMetric, *, count: int, groups: int
) -> dict[int, tuple[int, ...]]:
    """The ``count`` least important experts of each block."""
    return {one.block: least_important(one.scores(metric), count=count, groups=groups) for one in blocks}


def _known(workspace: Workspace) -> ExpertImportance | None:
    """The run's measurement, if it is of the run's calibration, or the run has none."""
    path = workspace.run.experts
    if not path.exists():
        return None
    known = ExpertImportance.read(path)
    known.check_belongs(workspace.model, path)
    if not workspace.run.calibration.exists():
        return known
    same = drawn_calibration(workspace).manifest.windows_fingerprint == known.windows_fingerprint
    return known if same else None


def _measured(workspace: Workspace, layout: ExpertLayout, on_block: Callable[[BlockExperts], None]) -> ExpertImportance:
    calibration = drawn_calibration(workspace)
    workspace = workspace.going_on(calibration.directory, calibration.manifest.dtype)
    workspace.remark_slow_dtype()
    with workspace.writing(), scratch_directory(workspace.run.path) as folder:
        if (known := _known(workspace)) is not None:  # measured by another process meanwhile
            return known
        decoder = workspace.open_decoder()
        blocks = []
        for measured in measure_experts(
            decoder, layout, calibration.tokens(), folder, workspace.compute, workspace.progress
        ):
            on_block(measured)
            blocks.append(measured)
        importance = _importance(workspace, calibration, dtype_name(decoder.dtype), tuple(blocks))
        importance.write(workspace.run.experts)
    return importance


def _importance(
    workspace: Workspace, calibration: Calibration, dtype: str, blocks: tuple[BlockExperts, ...]
) -> ExpertImportance:
    manifest = calibration.manifest
    return ExpertImportance(
        model=workspace.model,
        corpus=manifest.corpus,
        windows_fingerprint=manifest.windows_fingerprint,
        num_windows=manifest.num_windows,
        seq_len=manifest.seq_len,
        dtype=dtype,
        blocks=blocks,
        environment=Environment.now(),
    )
