"""What ``remove-blocks`` takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llmprune.artifacts.records.importance import Importance, check_blocks
from llmprune.choices import Heal, Scope
from llmprune.stages.block_removal.settings import RemovalSettings
from llmprune.stages.block_search import RedundancySettings, as_recorded, search_estimate
from llmprune.stages.calibration import calibration_remarks, calibration_steps, expected_windows
from llmprune.stages.common.model_cost import ModelCost, model_cost
from llmprune.stages.common.plans import Estimate, Plan, plan_of
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.healing import healed_bytes, healing_step
from llmprune.stages.output.cost import verification_steps, writing_step
from llmprune.stages.output.place import check_output


def plan_removal(workspace: Workspace, settings: RemovalSettings) -> Plan:
    """What ``remove-blocks`` is expected to take, with the calibration and the search that it may have to run first.

    Raises:
        As ``remove_blocks`` does, as far as settings and artifacts alone tell.
    """
    if settings.out is not None:
        check_output(workspace, settings.out, force=settings.force)
    remarks: list[str] = []
    removed, redundancy, heal = _expected(workspace, settings)
    measured = redundancy is not None or heal is not Heal.NONE
    workspace, windows = expected_windows(workspace)
    cost = model_cost(workspace, windows.seq_len, windows.count)
    steps: list[Estimate] = []
    if measured:
        steps += calibration_steps(cost, windows)
        remarks += calibration_remarks(windows)
    if redundancy is not None:
        steps += search_estimate(workspace, cost, windows, redundancy, len(removed))
        remarks.append("Which blocks will go is not known yet: some from the middle are assumed")
    steps += removal_steps(workspace, cost, removed, windows=windows.count, heal=heal, verify=settings.verify)
    return plan_of("remove-blocks", cost, steps, remarks)


def removal_steps(
    workspace: Workspace, cost: ModelCost, removed: Sequence[int], *, windows: int, heal: Heal, verify: bool
) -> list[Estimate]:
    """Heal the blocks that stay, where that is asked for, write the checkpoint, and verify it.

    Args:
        workspace: the source model.
        cost: of that model.
        removed: the blocks that go.
        windows: of calibration.
        heal: which blocks are healed.
        verify: whether what is written is compared with its source.
    """
    steps: list[Estimate] = []
    made, beside = cost.sizes.without(removed), 0
    if heal is not Heal.NONE:
        kept = [block for block in range(cost.sizes.depth) if block not in removed]
        steps.append(healing_step(cost, windows, kept, Scope(heal.value)))
        beside = healed_bytes(cost, kept, Scope(heal.value))
    steps.append(writing_step(workspace, cost, made.stored, beside=beside))
    return steps + verification_steps(cost, made, workspace.compute, verify=verify)


def middle_blocks(depth: int, count: int) -> range:
    """So many of ``depth`` blocks, from the middle: which go where a search is still to choose."""
    first = (depth - count) // 2
    return range(first, first + count)


def _expected(
    workspace: Workspace, settings: RemovalSettings
) -> tuple[tuple[int, ...], RedundancySettings | None, Heal]:
    """The blocks to remove, or as many from the middle and the search that will find them; and what is healed."""
    depth, path = workspace.model.num_blocks, workspace.run.importance
    if settings.blocks is not None:
        check_blocks(settings.blocks, num_blocks=depth, source="`blocks`")
        return settings.blocks, None, settings.heal or Heal.NONE
    known = Importance.read(path) if path.exists() else None
    redundancy = RedundancySettings()
    if known is not None:
        known.check_belongs(workspace.model, path)
        redundancy = as_recorded(known.settings)
    heal = settings.heal or (Heal.ALL if redundancy.heal else Heal.NONE)
    redundancy = replace(redundancy, target=settings.target)
    count = redundancy.count(depth)
    if known is not None and known.has_best(count):
        return known.first(count), None, heal
    return tuple(middle_blocks(depth, count)), redundancy, heal
