"""What ``apply-mask`` takes."""

from __future__ import annotations

from pathlib import Path

from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.artifacts.masks.mask import MASK_NAME, read_mask
from llmprune.artifacts.records.pruning import RECORD_NAME, PruningRecord
from llmprune.stages.common.model_cost import model_cost
from llmprune.stages.common.plans import Estimate, Plan, plan_of
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.masking.stage import MaskSettings
from llmprune.stages.output.cost import verification_steps, writing_step
from llmprune.stages.output.place import check_output

_SEQ_LEN = 512  # tokens to time a block with
_LOOKING = 1e-9  # seconds to look at a byte and count or change what it says, about


def plan_masking(workspace: Workspace, settings: MaskSettings) -> Plan:
    """What ``apply-mask`` is expected to take.

    Raises:
        As ``apply_mask`` does, as far as files and settings tell without reading weights.
    """
    if settings.out is not None:
        check_output(workspace, settings.out, force=settings.force)
    masked, mask_bytes, made = _masked(settings.mask)
    cost = model_cost(workspace, min(_SEQ_LEN, workspace.positions))
    stored = workspace.open_checkpoint().tensors
    nbytes = sum(stored[name].nbytes for name in masked if name in stored)
    each = cost.read + _LOOKING
    steps = [Estimate("reading the mask", disk=mask_bytes, read=nbytes, written=mask_bytes, seconds=nbytes * each)]
    steps = [*(steps if made else []), writing_step(workspace, cost, cost.sizes.stored)]
    steps.append(Estimate("masking", read=nbytes + mask_bytes, written=nbytes, seconds=2 * nbytes * each))
    steps.append(Estimate("counting zeros", read=2 * nbytes, seconds=2 * nbytes * each))
    if settings.verify:
        both = 2 * cost.sizes.stored
        steps.append(Estimate("comparing files", read=both + mask_bytes, seconds=both * each))
    steps += verification_steps(cost, cost.sizes, workspace.compute, verify=settings.verify)
    return plan_of("apply-mask", cost, steps)


def _masked(given: Path) -> tuple[tuple[str, ...], int, bool]:
    """Names of the masked tensors, bytes of the mask, and whether it would be made first.

    Raises:
        ArtifactError: no mask, and no checkpoint of llmprune's.
        CheckpointError: the file or the checkpoint is not whole.
    """
    path = given / MASK_NAME if given.is_dir() else given
    if path.is_file() or not given.is_dir():
        mask = read_mask(path)
        return tuple(mask.tensors), path.stat().st_size, False
    names = PruningRecord.read(given / RECORD_NAME).zeroed_tensors
    tensors = open_checkpoint(given).tensors
    return tuple(names), sum(tensors[name].numel for name in names) // 8, True
