"""What ``remove-experts`` takes."""

from __future__ import annotations

from dataclasses import replace

from llmprune.artifacts.records.pruning import ExpertRemoval
from llmprune.stages.calibration import Windows, calibration_remarks, drawing_steps, expected_windows, hidden_bytes
from llmprune.stages.common.model_cost import ModelCost, ModelSizes, model_cost
from llmprune.stages.common.plans import Estimate, Plan, plan_of
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.expert_removal.settings import ExpertSettings, check_experts, count_to_remove
from llmprune.stages.expert_removal.stage import layout_of, some_experts
from llmprune.stages.expert_removal.write import plan_cut
from llmprune.stages.output.cost import verification_steps, writing_step
from llmprune.stages.output.place import check_output

_EACH = 2.0  # passes through a block that measuring its experts takes, about: they run once more, one by one
_RECORD = 100  # bytes of an expert in experts.json, about


def plan_expert_removal(workspace: Workspace, settings: ExpertSettings) -> Plan:
    """What ``remove-experts`` is expected to take, with the calibration that it may have to make first.

    Raises:
        As ``remove_experts`` does, as far as settings, shapes and artifacts alone tell.
    """
    layout = layout_of(workspace)
    if settings.experts is not None:
        check_experts(settings.experts, layout)
    if settings.out is not None:
        check_output(workspace, settings.out, force=settings.force)
    count = len(next(iter(settings.experts.values()))) if settings.experts else count_to_remove(settings.target, layout)
    removal = some_experts(layout, count)
    workspace, windows = expected_windows(workspace)
    cost = model_cost(workspace, windows.seq_len, windows.count)
    drawn: list[Estimate] = []
    if settings.experts is None and not workspace.run.experts.exists():
        drawn = drawing_steps(cost, windows)
    steps, _ = expert_steps(
        workspace, cost, windows, removal, measured=settings.experts is not None, verify=settings.verify
    )
    return plan_of("remove-experts", cost, [*drawn, *steps], calibration_remarks(windows))


def expert_steps(
    workspace: Workspace,
    cost: ModelCost,
    windows: Windows,
    removal: ExpertRemoval,
    *,
    measured: bool,
    verify: bool,
) -> tuple[list[Estimate], ModelSizes]:
    """Measuring experts, unless the run has done so or ``measured`` is set, and writing what is left of a model.

    Returns:
        The steps, and the sizes of the new checkpoint.
    """
    steps: list[Estimate] = []
    if not measured and not workspace.run.experts.exists():
        each = hidden_bytes(cost, windows)
        memory = cost.memory(cost.running + cost.block_bytes)
        record = _RECORD * removal.before * cost.sizes.depth
        steps.append(
            Estimate(
                "measuring experts",
                memory.host,
                memory.device,
                disk=2 * each,
                kept=record,
                read=cost.sizes.stored + each * cost.sizes.depth,
                written=each * cost.sizes.depth + record,
                seconds=_EACH * windows.count * cost.times.block * cost.sizes.depth,
            )
        )
    cut, made = _made(workspace, cost, removal)
    cutting = Estimate("cutting experts", disk=cut, read=cut, written=cut, seconds=2 * cut * cost.read)
    steps += [cutting, writing_step(workspace, cost, made.stored, beside=cut)]
    steps += verification_steps(_precise(cost), _wide(made, cost), workspace.compute, verify=verify)
    return steps, made


def _made(workspace: Workspace, cost: ModelCost, removal: ExpertRemoval) -> tuple[int, ModelSizes]:
    """Bytes of the tensors that are cut, and the sizes of the new checkpoint."""
    cut, tensors = plan_cut(workspace, removal), workspace.open_checkpoint().tensors
    parts = sum(tensors[name].nbytes for name in cut.entries) * removal.left // removal.before
    whole = sum(one.nbytes for name, one in tensors.items() if name not in cut.removed and name not in cut.entries)
    sizes = cost.sizes
    share = (whole + parts - sizes.outside_stored) / sum(sizes.blocks_stored)
    return parts, replace(
        sizes,
        stored=whole + parts,
        blocks=tuple(int(share * one) for one in sizes.blocks),
        blocks_stored=tuple(int(share * one) for one in sizes.blocks_stored),
    )


def _wide(sizes: ModelSizes, cost: ModelCost) -> ModelSizes:
    """The same in float32, in which experts are compared."""
    times = max(1, 4 * cost.width * cost.seq_len // cost.window_bytes)
    return replace(sizes, outside=times * sizes.outside, blocks=tuple(times * one for one in sizes.blocks))


def _precise(cost: ModelCost) -> ModelCost:
    return replace(cost, sizes=_wide(cost.sizes, cost))
