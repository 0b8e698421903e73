"""What ``global-prune`` takes."""

from __future__ import annotations

from llmprune.choices import Method, Reference
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
from llmprune.stages.weight_pruning.selection import check_shapes, parse_layers
from llmprune.stages.weight_pruning.settings import PruningSettings

_MEMORY = 1 << 30  # bytes of a block's activations that stay in memory
# The cost of a method, in forward passes over the calibration text and in products of a matrix with its Gram matrix.
# These are rough guesses. Every finished point of a sweep corrects them.
_PASSES = {Method.SPARSELLM: 20.0, Method.SPARSEGPT: 10.0, Method.WANDA: 8.0, Method.MAGNITUDE: 4.0}
_SOLVES = {Method.SPARSELLM: 60.0, Method.SPARSEGPT: 20.0, Method.WANDA: 15.0, Method.MAGNITUDE: 0.0}


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
    steps += pruning_steps(workspace, cost, cost.sizes, settings, windows=count, blocks=len(blocks), last=max(blocks))
    remarks = ["The time of solving is a rough guess", *calibration_remarks(windows)]
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
    """
    steps = [_counting(cost, sizes, blocks), _pruning(cost, sizes, settings, windows, blocks, last)]
    finished = sum(sizes.blocks_stored) * blocks // sizes.depth  # in the files of the pass
    steps.append(writing_step(workspace, cost, sizes.stored, beside=finished))
    return [*steps, *verification_steps(cost, sizes, workspace.compute, verify=settings.verify)]


def _counting(cost: ModelCost, sizes: ModelSizes, blocks: int) -> Estimate:
    """The count of the zeros that are there before."""
    nbytes = sum(sizes.blocks_stored) * blocks // sizes.depth
    memory = cost.memory(cost.sizes.outside, host=nbytes, loading=False)
    return Estimate("counting zeros", memory.host, memory.device, read=nbytes, seconds=nbytes * cost.read)


def _pruning(
    cost: ModelCost, sizes: ModelSizes, settings: PruningSettings, windows: int, blocks: int, last: int
) -> Estimate:
    tokens, weights = windows * cost.seq_len, sum(rows * columns for rows, columns in sizes.matrices)
    widest = max(columns for _, columns in sizes.matrices)
    dense = settings.reference is Reference.DENSE
    each = windows * cost.window_bytes * (2 if dense else 1)  # of both models
    finished = sum(sizes.blocks_stored) * blocks // sizes.depth
    kept = _kept_tokens(cost, settings, tokens, widest)
    grams = 4 * 4 * (widest**2 + widest * cost.width) if settings.method is not Method.MAGNITUDE else 0
    memory = cost.memory(cost.running + min(kept, _MEMORY) + grams + 8 * weights)
    spilled = max(0, kept - _MEMORY)
    passes, solved = _PASSES[settings.method], sum(rows * columns**2 for rows, columns in sizes.matrices)
    seconds = windows * cost.times.block * (passes * blocks + last + 1 - blocks)
    seconds += _SOLVES[settings.method] * cost.multiplying * solved * blocks
    return Estimate(
        "pruning",
        memory.host,
        memory.device,
        disk=2 * each + finished + spilled,
        read=sum(sizes.blocks_stored) * (last + 1) // sizes.depth + int(passes) * each * blocks,
        written=each * (last + 1) + finished + spilled * blocks,
        seconds=seconds,
    )


def _kept_tokens(cost: ModelCost, settings: PruningSettings, tokens: int, widest: int) -> int:
    """Bytes that are kept of all tokens while a block is pruned: inputs of its layers, and the FFN's own variables."""
    inner = 2 * widest if settings.method is Method.SPARSELLM else 0
    dense = 3 * cost.width + widest if settings.reference is Reference.DENSE else 0
    return 4 * tokens * max(inner + 2 * cost.width if inner else 0, dense)
