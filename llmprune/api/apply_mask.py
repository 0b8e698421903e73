"""The zeros of one pruned checkpoint in a sibling of its base model: in memory, or in a checkpoint on disk."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypedDict, Unpack, overload

from llmprune.api.checkpoints import PrunedCheckpoint
from llmprune.api.models import Model, OnDisk
from llmprune.api.progress import Logged
from llmprune.artifacts.files.sizes import parse_size
from llmprune.choices import DEVICE, SHARD_SIZE, Dtype
from llmprune.stages.common.intact import Intact
from llmprune.stages.common.progress import Progress
from llmprune.stages.masking import MaskSettings, mask_in_memory, opened_mask
from llmprune.stages.masking import apply_mask as write_masked

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MaskOptions(TypedDict, total=False):
    """The keyword arguments of ``apply_mask`` but ``out``, for type checkers."""

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
def apply_mask(
    model: Model, mask: Path | str | PrunedCheckpoint, *, out: None = None, **options: Unpack[MaskOptions]
) -> PreTrainedModel: ...
@overload
def apply_mask(
    model: Model, mask: Path | str | PrunedCheckpoint, *, out: Path | str, **options: Unpack[MaskOptions]
) -> PrunedCheckpoint: ...
def apply_mask(
    model: Model,
    mask: Path | str | PrunedCheckpoint,
    *,
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
    """Make the weights of a model zero where a mask says so; all others stay the same bit for bit.

    Without ``out`` the result is a new model in memory, which uses the memory of ``model`` for all weights but the
    masked ones. With ``out`` it is a checkpoint directory: what ``llmprune apply-mask`` writes.

    Args:
        model: a sibling of the model that the mask was made from: in memory, or its path or Hub id.
        mask: a mask file, or a weight-pruned checkpoint.
        out: the new checkpoint's directory.
        verify: for ``out``, compare the files bit by bit, and load the result.
        force: replace a checkpoint that ``out`` holds.
        max_shard_size: largest weight file of ``out``.
        run: for a model on disk, a run directory in which the checkpoint is remembered.
        device: for a model on disk, ``auto``, ``cpu`` or ``cuda``.
        dtype: for a model on disk, what to verify in, and the dtype of a model in memory that is made of it.
        memory_budget: for a model on disk, the most memory to use: ``"12GB"``, or ``"12GB,48GB"`` of a GPU and of the
            host; None: what is free, less a margin. No number depends on it.
        trust_remote_code: whether the checkpoint's own Python files may run.
        check: whether to see first that a checkpoint of llmprune is as it was written, by the digests in its record.
        progress: who hears remarks; None: the logger ``llmprune``.

    Raises:
        ArtifactError: no mask, or one of a model with other weights, shapes or blocks.
        CheckpointError: files that are not whole.
        OutputExistsError: ``out`` holds something else.
        VerificationError: the written checkpoint is not what it should be.

    Example:
        >>> sparse = apply_mask(my_fine_tuned_model, "mask.safetensors")
    """
    given = mask.directory if isinstance(mask, PrunedCheckpoint) else Path(mask)
    place = OnDisk(run, device, dtype, trust_remote_code, progress or Logged(), check, memory_budget)
    if not isinstance(model, str | Path):
        place.refuse(out=out)
        return _masked(model, given, place)
    with place.workspace(model) as workspace:
        if out is None:
            return _masked(place.load(workspace), given, place)
        settings = MaskSettings(
            given, Path(out), max_shard_bytes=parse_size(max_shard_size), verify=verify, force=force
        )
        report = write_masked(workspace, settings)
    return PrunedCheckpoint(report.directory, report.record)


def _masked(model: PreTrainedModel, given: Path, place: OnDisk) -> PreTrainedModel:
    intact = Intact(place.check)
    with (
        TemporaryDirectory(prefix="llmprune-") as scratch,
        opened_mask(given, scratch=Path(scratch), intact=intact, progress=place.progress) as mask,
    ):
        return mask_in_memory(model, mask, called=given)
