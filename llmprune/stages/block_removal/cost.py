"""What ``remove-blocks`` takes."""

from __future__ import annotations

from dataclasses import replace

from llmprune.artifacts.records.importance import Importance, check_blocks
from llmprune.choices import Heal, Scope
from llmprune.stages.block_removal.settings import RemovalSettings
from llmprune.stages.block_search import RedundancySettings, as_recorded, search_estimate
from llmprune.stages.calibration import calibration_remarks, calibration_steps, expected_windows
from llmprune.stages.common.model_cost import model_cost
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
    depth = workspace.model.num_blocks
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
    made = cost.sizes.without(removed)
    kept = [block for block in range(depth) if block not in removed]
    if heal is not Heal.NONE:
        steps.append(healing_step(cost, windows.count, kept, Scope(heal.value)))
    beside = 0 if heal is Heal.NONE else healed_bytes(cost, kept, Scope(heal.value))
    steps.append(writing_step(workspace, cost, made.stored, beside=beside))
    steps += verification_steps(cost, made, workspace.compute, verify=settings.verify)
    return plan_of("remove-blocks", cost, steps, remarks)


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
    first = (depth - count) // 2
    return tuple(range(first, first + count)), redundancy, heal
