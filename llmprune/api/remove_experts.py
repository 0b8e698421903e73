"""Removing experts: a model in memory with fewer of them, or a checkpoint streamed from file to file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypedDict, Unpack, overload

import torch

from llmprune.api.checkpoints import PrunedCheckpoint
from llmprune.api.choice import choice
from llmprune.api.models import Model, OnDisk
from llmprune.api.progress import Logged
from llmprune.api.ranking import Target
from llmprune.api.windows import Windows, as_windows, given_or_kept, required
from llmprune.artifacts.checkpoints.block_numbers import kept_blocks
from llmprune.artifacts.files.sizes import parse_size
from llmprune.artifacts.records.pruning import ExpertRemoval
from llmprune.choices import DEVICE, EXPERT_TARGET, SHARD_SIZE, Dtype, ExpertMetric
from llmprune.errors import TargetError
from llmprune.models.compute import Compute
from llmprune.models.decoder import Decoder
from llmprune.models.expert_surgery import ExpertLayout, cut_model_experts, expert_layout
from llmprune.models.resident import model_decoder, sharing_copy
from llmprune.models.source import positions, vocabulary
from llmprune.stages.common.checks import require_positions, require_vocabulary
from llmprune.stages.common.progress import Progress
from llmprune.stages.expert_removal import (
    ExpertSettings,
    check_experts,
    count_to_remove,
    least_of,
    measure_experts,
)
from llmprune.stages.expert_removal import remove_experts as write_without_experts
from llmprune.stages.output.verification import verify_model
from llmprune.text.windows import TokenWindows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Chosen = Mapping[int, Sequence[int]]


class ExpertOptions(TypedDict, total=False):
    """The keyword arguments of ``remove_experts`` but ``out``, for type checkers."""

    target: Target | None
    metric: str
    windows: Windows | None
    verify: bool
    force: bool
    max_shard_size: str | int
    run: Path | str | None
    device: str
    dtype: str
    memory_budget: str | None
    trust_remote_code: bool
    check: bool
    progress: Progress | None


@overload
def remove_experts(
    model: Model, experts: Chosen | None = None, *, out: None = None, **options: Unpack[ExpertOptions]
) -> PreTrainedModel: ...
@overload
def remove_experts(
    model: Model, experts: Chosen | None = None, *, out: Path | str, **options: Unpack[ExpertOptions]
) -> PrunedCheckpoint: ...
def remove_experts(
    model: Model,
    experts: Chosen | None = None,
    *,
    target: Target | None = None,
    metric: str = ExpertMetric.REAP,
    windows: Windows | None = None,
    out: Path | str | None = None,
    verify: bool = True,
    force: bool = False,
    max_shard_size: str | int = SHARD_SIZE,
    run: Path | str | None = None,
    device: str = DEVICE,
    dtype: str = Dtype.AUTO,
    memory_budget: str | None = None,
    trust_remote_code: bool = False,
    check: bool = True,
    progress: Progress | None = None,
) -> PreTrainedModel | PrunedCheckpoint:
    """Remove experts from a mixture of experts, as many of each block, with their rows of the router.

    Which experts go is measured in one pass over the windows (REAP, arXiv 2510.13999), or named. Without ``out`` the
    result is a new model in memory, which uses the same memory as ``model`` for all weights that are not cut. With
    ``out`` it is a checkpoint directory, streamed from the files of a model on disk.

    Args:
        model: in memory, or its path or Hub id.
        experts: for each block with experts, the indices of those that go; None: they are measured.
        target: how many experts of each block go, such as ``"25%"`` or ``2``; None: 25%.
        metric: ``reap`` or ``frequency``.
        windows: to measure on; None: those of ``run``.
        out: the new checkpoint's directory.
        verify: see that the result computes what the model does whose routers cannot choose these experts; of a model
            in memory in a narrower dtype than float32, copies of both are compared in float32.
        force: replace a checkpoint that ``out`` holds.
        max_shard_size: largest weight file of ``out``.
        run: for a model on disk, a run directory in which the checkpoint is remembered, and with ``out`` and without
            ``windows`` what is measured is kept.
        device: for a model on disk, ``auto``, ``cpu`` or ``cuda``.
        dtype: for a model on disk, what to compute in: ``auto`` (as stored), ``float32``, ``bfloat16``, ``float16``.
        memory_budget: for a model on disk, the most memory to use: ``"12GB"``, or ``"12GB,48GB"`` of a GPU and of the
            host; None: what is free, less a margin. No number depends on it.
        trust_remote_code: whether the checkpoint's own Python files may run.
        check: whether to see first that a checkpoint of llmprune is as it was written, by the digests in its record.
        progress: who hears remarks; None: the logger ``llmprune``.

    Raises:
        TargetError: a target or experts that leave what cannot be routed to, or arguments that do not go together.
        ModelError: no such model, or it has no experts that can be told apart or removed.
        OutputExistsError: ``out`` holds something else.
        VerificationError: the result does not compute what it should; it is not kept.

    Example:
        >>> smaller = remove_experts(model, target="25%", windows=windows)
        >>> smaller.save_pretrained("smaller")
    """
    if experts is not None and target is not None:
        raise TargetError("`target` counts experts, and `experts` names them; give one.")
    place = OnDisk(run, device, dtype, trust_remote_code, progress or Logged(), check, memory_budget)
    named = {block: tuple(sorted(set(gone))) for block, gone in experts.items()} if experts is not None else None
    settings = ExpertSettings(
        target=EXPERT_TARGET if target is None else str(target),
        experts=named,
        metric=choice(ExpertMetric, metric=metric),
        out=None if out is None else Path(out),
        max_shard_bytes=parse_size(max_shard_size),
        verify=verify,
        force=force,
    )
    if not isinstance(model, str | Path):
        place.refuse(out=out)
        text = as_windows(required(windows)) if experts is None else None
        return _cut(model, text, settings, place.progress)
    with place.workspace(model) as workspace:
        kept = out is not None and windows is None and run is not None  # the run's own measurement
        text = None if experts is not None or kept else given_or_kept(windows, workspace, place)
        if out is None:
            return _cut(place.load(workspace), text, settings, place.progress)
        removal = None
        if text is not None:
            decoder = workspace.open_decoder()
            removal = _removal(decoder, text, settings, Compute(decoder.device), place.progress)
            del decoder
        report = write_without_experts(workspace, settings, removal=removal)
    return PrunedCheckpoint(report.directory, report.record)


def _removal(
    decoder: Decoder,
    windows: TokenWindows | None,
    settings: ExpertSettings,
    compute: Compute,
    progress: Progress,
) -> ExpertRemoval:
    """The experts that go: those that were named, or the least important ones on the windows."""
    layout = expert_layout(decoder.model, decoder.model.config)
    if settings.experts is not None:
        check_experts(settings.experts, layout)
        return _record(settings.experts, layout)
    assert windows is not None, "experts that are not named are measured"
    count = count_to_remove(settings.target, layout)
    require_positions(positions(decoder.model.config), seq_len=windows.seq_len)
    require_vocabulary(vocabulary(decoder.model.config), windows.tokens)
    with TemporaryDirectory(prefix="llmprune-") as folder:
        measured = list(measure_experts(decoder, layout, windows.tokens, Path(folder), compute, progress))
    removed = least_of(measured, settings.metric, count=count, groups=layout.groups)
    text = f"{windows.num_windows} windows of {windows.seq_len} tokens of {windows.identity().described}"
    return _record(removed, layout).model_copy(update={"metric": settings.metric.value, "calibration": text})


def _record(removed: Mapping[int, tuple[int, ...]], layout: ExpertLayout) -> ExpertRemoval:
    gone = len(next(iter(removed.values())))
    return ExpertRemoval(removed=dict(sorted(removed.items())), before=layout.count, left=layout.count - gone)


def _cut(
    model: PreTrainedModel, windows: TokenWindows | None, settings: ExpertSettings, progress: Progress
) -> PreTrainedModel:
    """The model with fewer experts, in memory."""
    decoder = model_decoder(model)
    removal = _removal(decoder, windows, settings, Compute(decoder.device), progress)
    kept = {block: kept_blocks(removal.before, gone) for block, gone in removal.removed.items()}
    cut = cut_model_experts(model, kept, before=removal.before)
    if settings.verify:
        _verify(model, cut, removal)
    return cut


def _verify(model: PreTrainedModel, cut: PreTrainedModel, removal: ExpertRemoval) -> None:
    """Compare both models, narrow ones on float32 copies: there two experts often tie."""
    if model.dtype.itemsize < torch.float32.itemsize:
        model, cut = (sharing_copy(one).float() for one in (model, cut))
    verify_model(model_decoder(model), cut, experts=removal.removed)
