"""What ``prune`` takes."""

from __future__ import annotations

from dataclasses import replace

from llmprune.artifacts.records.sweep import DENSE
from llmprune.choices import Heal
from llmprune.stages.benchmark import bench_steps, expected_of_dense, measured_texts
from llmprune.stages.block_removal import middle_blocks, removal_steps
from llmprune.stages.block_search import search_estimate
from llmprune.stages.budget_pruning.choose import planned_search
from llmprune.stages.budget_pruning.settings import BudgetSettings
from llmprune.stages.budget_pruning.stage import footprint_of
from llmprune.stages.calibration import calibration_remarks, calibration_steps, expected_windows
from llmprune.stages.common.model_cost import measure
from llmprune.stages.common.plans import Plan, plan_of, together
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.output.place import check_output


def plan_budget(workspace: Workspace, settings: BudgetSettings) -> Plan:
    """What ``prune`` is expected to take. Nothing is written.

    Raises:
        As ``prune_to_budget`` does, as far as settings and shapes alone tell.
    """
    measured = settings.bench
    if settings.out is not None:
        check_output(workspace, settings.out, force=settings.force)
    footprint = footprint_of(workspace, settings, None)
    search = planned_search(workspace, settings, footprint)
    numbers = expected_of_dense(workspace, measured)
    workspace, windows = expected_windows(workspace, settings.calibration)
    compute = workspace.compute
    texts = measured_texts(measured, numbers)
    cost = measure(workspace.open_decoder, compute, windows.seq_len, windows.count, texts=texts)
    steps = calibration_steps(cost, windows)
    rounds = min(search.fewest + 1, search.most)
    steps += search_estimate(workspace, cost, windows, search.settings, rounds)
    dense = bench_steps(cost, {DENSE: cost.sizes}, replace(measured, agreement=0), numbers, compute)
    steps.append(together("dense model, measured", dense))
    for count in dict.fromkeys(one for one in (search.fewest - 1, rounds, search.fewest) if one > 0):
        removed = middle_blocks(cost.sizes.depth, count)
        verify = settings.verify and count == search.fewest  # the alternatives are measured, and not kept
        parts = removal_steps(workspace, cost, removed, windows=windows.count, heal=Heal.ALL, verify=verify)
        made = cost.sizes.without(removed)
        parts += bench_steps(cost, {"": made, DENSE: cost.sizes}, measured, numbers, compute, known=DENSE)
        point = together(f"without {count} blocks", parts)
        steps.append(point if count == search.fewest else replace(point, kept=0))
    remarks = ["Which blocks will go is not known yet: some from the middle are assumed"]
    return plan_of("prune", cost, steps, [*remarks, *calibration_remarks(windows)])
