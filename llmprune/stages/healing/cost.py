"""What healing takes."""

from __future__ import annotations

from collections.abc import Sequence

from llmprune.algorithms.weights.gram import gram_products
from llmprune.artifacts.records.pruning import RECORD_NAME, PruningRecord, blocks_left
from llmprune.choices import Scope
from llmprune.stages.calibration import (
    CalibrationChoice,
    CalibrationSettings,
    calibration_remarks,
    chosen_windows,
    drawing_steps,
)
from llmprune.stages.common.model_cost import ModelCost, model_cost, model_sizes
from llmprune.stages.common.plans import Estimate, Plan, plan_of
from llmprune.stages.common.work import Work
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.healing.settings import RIDGES, HealSettings, held_back
from llmprune.stages.output.cost import verification_steps, writing_step
from llmprune.stages.output.place import check_output

_LAYERS = 2  # of a block that add to the residual stream: the attention's output and the FFN's
_FACTOR, _SOLVED = 1.0, 2.0  # a ridge takes so many times n^3, and so many times rows n^2
_LACKING = 6  # numbers that are made of one that a layer is given or gives


def plan_heal(
    workspace: Workspace, checkpoint: str, settings: HealSettings, calibration: CalibrationSettings | None = None
) -> Plan:
    """What ``heal`` is expected to take, with the calibration that it may have to make first.

    Raises:
        As ``heal`` does, as far as settings and artifacts alone tell.
    """
    pruned = workspace.beside(checkpoint)
    history = PruningRecord.read(pruned.directory / RECORD_NAME)
    origins = blocks_left(history, workspace.model.fingerprint) or tuple(range(workspace.model.num_blocks))
    if settings.out is not None:
        check_output(workspace, settings.out, force=settings.force)
    choice = CalibrationChoice(settings.calibration, settings.samples, settings.seq_len, calibration)
    workspace, windows = chosen_windows(workspace, choice)
    cost = model_cost(workspace, windows.seq_len, windows.count)
    made = model_sizes(pruned.open_shell())
    steps = drawing_steps(cost, windows)
    count = settings.samples or windows.count
    steps.append(healing_step(cost, count, origins, settings.scope, apart=True))
    beside = healed_bytes(cost, origins, settings.scope)
    steps.append(writing_step(pruned, cost, made.stored, beside=beside))
    steps += verification_steps(cost, made, workspace.compute, verify=settings.verify)
    return plan_of("heal", cost, steps, calibration_remarks(windows))


def healing_step(cost: ModelCost, windows: int, kept: Sequence[int], scope: Scope, *, apart: bool = False) -> Estimate:
    """The pass that solves layers anew.

    Args:
        cost: of the dense model.
        windows: calibration windows.
        kept: for each block of the pruned model, its index in the dense one.
        scope: which blocks are healed.
        apart: whether the pruned model is a checkpoint of its own, of which everything outside the blocks is there too.
    """
    depth = cost.sizes.depth
    healed, first = _healed(depth, kept, scope)
    back = held_back(windows)
    solved, held, each = cost.own(windows - back), cost.own(back), cost.window_bytes
    forwards = (solved + held) * (first + (depth - first) + (len(kept) - first))  # both models' own walks
    for place in healed:
        behind = len(kept) - place
        forwards += _LAYERS * (solved + held * (len(RIDGES) + 1 + behind))
    heads = held * _LAYERS * len(healed)
    widest = max(inputs for _, inputs in cost.sizes.matrices)
    solving = [_solving(cost, inputs, solved * cost.seq_len).times(len(healed)) for inputs in (cost.width, widest)]
    gram = 4 * (4 * widest**2 + 3 * widest * cost.width)
    outside = cost.sizes.outside if apart else 0
    states = held * each + 4 * cost.batch * cost.seq_len * (widest + 3 * cost.width)
    memory = cost.memory(cost.running + outside + max(cost.sizes.blocks) + gram + states)
    weights = healed_bytes(cost, kept, scope)
    walks = cost.sizes.stored * (2 + held * _LAYERS * len(healed) // max(1, 2 * held))
    return Estimate(
        "healing",
        memory.host,
        memory.device,
        disk=4 * windows * each + weights,
        read=walks + 6 * (solved + held) * each * len(kept),
        written=windows * each * (depth + len(kept) - first + 2) + weights,
        seconds=forwards * cost.times.block
        + heads * cost.times.head
        + sum(map(cost.work.of, solving))
        + walks * cost.opening,
    )


def _solving(cost: ModelCost, inputs: int, tokens: int) -> Work:
    """Sum up a layer's moments over the tokens, and solve it with every ridge."""
    moments = Work(gram_products(inputs) + inputs * cost.width, numbers=_LACKING * (inputs + cost.width)).times(tokens)
    ridge = Work(_FACTOR * inputs**3 + _SOLVED * cost.width * inputs**2)
    return moments + ridge.times(cost.own(len(RIDGES)))


def healed_bytes(cost: ModelCost, kept: Sequence[int], scope: Scope) -> int:
    """Bytes of the healed weights, which lie in files of the pass until the checkpoint is there."""
    healed, _ = _healed(cost.sizes.depth, kept, scope)
    widest = max(inputs for _, inputs in cost.sizes.matrices)
    numbers = sum(cost.sizes.blocks) // _itemsize(cost)
    itemsize = sum(cost.sizes.blocks_stored) // numbers
    return len(healed) * cost.width * (widest + cost.width) * itemsize


def _healed(depth: int, kept: Sequence[int], scope: Scope) -> tuple[list[int], int]:
    """The blocks that are healed, by their place in the pruned model, and where its states leave the dense one's."""
    ends = (*kept[1:], depth)
    cuts = [place for place, (origin, goal) in enumerate(zip(kept, ends, strict=True)) if goal > origin + 1]
    first = min(cuts, default=0)
    return (cuts if scope is Scope.CUT and cuts else list(range(first, len(kept)))), first


def _itemsize(cost: ModelCost) -> int:
    return cost.window_bytes // (cost.width * cost.seq_len)
