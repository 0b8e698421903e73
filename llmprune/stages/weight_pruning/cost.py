"""What ``global-prune`` takes."""

from __future__ import annotations

from functools import partial

from llmprune.artifacts.activations import open_calibration
from llmprune.models.compute import Compute, dtype_name
from llmprune.stages.calibration import (
    CalibrationChoice,
    CalibrationSettings,
    calibration_remarks,
    chosen_windows,
    drawing_steps,
)
from llmprune.stages.common.model_cost import ModelCost, ModelSizes, model_cost
from llmprune.stages.common.plans import Estimate, Plan, plan_of
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.output.cost import verification_steps, writing_step
from llmprune.stages.output.place import check_output
from llmprune.stages.passes import cached_states
from llmprune.stages.weight_pruning.block_shapes import BlockShapes
from llmprune.stages.weight_pruning.estimate import fitted_needs
from llmprune.stages.weight_pruning.selection import check_shapes, parse_layers
from llmprune.stages.weight_pruning.settings import PruningSettings


def plan_pruning(
    workspace: Workspace, settings: PruningSettings, calibration: CalibrationSettings | None = None
) -> Plan:
    """What ``global-prune`` is expected to take, with the calibration that it may have to make first.

    Raises:
        As ``global_prune`` does, as far as settings, shapes and artifacts alone tell.
    """
    if settings.out is not None:
        check_output(workspace, settings.out, force=settings.force)
    blocks = parse_layers(settings.selection.layers, depth=workspace.model.num_blocks)
    check_shapes(workspace.open_shell(), blocks, settings.selection, settings.pattern)
    choice = CalibrationChoice(settings.calibration, settings.samples, settings.seq_len, calibration)
    workspace, windows = chosen_windows(workspace, choice)
    cost = model_cost(workspace, windows.seq_len, windows.count)
    steps = drawing_steps(cost, windows)
    count = settings.samples or windows.count
    steps += pruning_steps(
        workspace,
        cost,
        cost.sizes,
        settings,
        windows=count,
        blocks=len(blocks),
        last=max(blocks),
        cached=_cached(workspace, settings, min(blocks)),
    )
    remarks = ["The time of pruning is told from what it computes", *calibration_remarks(windows)]
    return plan_of("global-prune", cost, steps, remarks)


def pruning_steps(
    workspace: Workspace,
    cost: ModelCost,
    sizes: ModelSizes,
    settings: PruningSettings,
    *,
    windows: int,
    blocks: int,
    last: int,
    cached: int = 0,
) -> list[Estimate]:
    """The steps of pruning a model's weights and of writing it.

    Args:
        workspace: of the model, or of the one that it was made from.
        cost: of that model.
        sizes: of the model that is pruned.
        settings: how.
        windows: calibration windows.
        blocks: how many blocks are pruned.
        last: the last one of them.
        cached: blocks at the beginning that are not run, since what leaves them is cached.
    """
    steps = [
        _counting(cost, sizes, blocks),
        _pruning(cost, sizes, settings, windows, blocks, last, cached, workspace.compute),
    ]
    finished = sum(sizes.blocks_stored) * blocks // sizes.depth  # in the files of the pass
    steps.append(writing_step(workspace, cost, sizes.stored, beside=finished))
    return [*steps, *verification_steps(cost, sizes, workspace.compute, verify=settings.verify)]


def _cached(workspace: Workspace, settings: PruningSettings, first: int) -> int:
    """The last place up to the block ``first`` whose hidden states the calibration keeps."""
    place = settings.calibration or workspace.run.calibration
    known = open_calibration(place) if place.exists() else None
    found = cached_states(known, model=workspace.model.fingerprint, dtype=dtype_name(workspace.dtype))
    return 0 if found is None else max((at for at in range(1, first + 1) if found.calibration.keeps(at)), default=0)


def _counting(cost: ModelCost, sizes: ModelSizes, blocks: int) -> Estimate:
    """The count of the zeros that are there before."""
    nbytes = sum(sizes.blocks_stored) * blocks // sizes.depth
    memory = cost.memory(cost.sizes.outside, host=nbytes, loading=False)
    return Estimate("counting zeros", memory.host, memory.device, read=nbytes, seconds=nbytes * cost.read)


def _pruning(
    cost: ModelCost,
    sizes: ModelSizes,
    settings: PruningSettings,
    windows: int,
    blocks: int,
    last: int,
    cached: int,
    compute: Compute,
) -> Estimate:
    shapes = BlockShapes.whole(sizes.matrices, cost.width)
    itemsize = cost.window_bytes // (cost.seq_len * cost.width)
    # One block is open and no next one is fetched; the head is not run.
    beside = cost.open_block - max(sizes.blocks_stored) + cost.batch_bytes + cost.block_bytes
    needs_with = partial(
        fitted_needs,
        shapes,
        settings,
        compute,
        beside=beside,
        seq_len=cost.seq_len,
        batch=cost.batch * cost.seq_len,
        blocks=blocks,
        before=last + 1 - blocks - cached,
        itemsize=itemsize,
        stored=itemsize * sum(sizes.blocks_stored) // sum(sizes.blocks),
        spills_wide=cost.on_host,
        processes=cost.processes,
    )
    needs, own = (needs_with(tokens=count * cost.seq_len) for count in (windows, cost.own(windows)))
    memory = cost.memory(beside + own.memory)
    passing = cost.times.block / (cost.seq_len * shapes.forward(cost.seq_len))  # attention and norms are in it
    opened = sum(sizes.blocks_stored) * (last + 1 - cached) // sizes.depth
    return Estimate(
        "pruning",
        memory.host,
        memory.device,
        disk=needs.disk,
        read=opened + own.read,
        written=needs.written,
        seconds=cost.work.of(own.work) + own.work.narrow * passing + opened * cost.opening,
    )
