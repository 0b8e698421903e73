"""What ``prune`` takes."""

from __future__ import annotations

from dataclasses import replace

from llmprune.artifacts.records.sweep import DENSE
from llmprune.choices import Heal
from llmprune.stages.benchmark import bench_steps, expected_of_dense, measured_texts
from llmprune.stages.block_removal import middle_blocks, removal_steps
from llmprune.stages.block_search import search_estimate
from llmprune.stages.budget_pruning.choose import search_unless_experts
from llmprune.stages.budget_pruning.experts import fewest_experts, others_beside
from llmprune.stages.budget_pruning.points import Cut
from llmprune.stages.budget_pruning.settings import BudgetSettings
from llmprune.stages.budget_pruning.stage import footprint_of
from llmprune.stages.calibration import calibration_remarks, calibration_steps, expected_windows
from llmprune.stages.common.model_cost import ModelSizes, measure
from llmprune.stages.common.plans import Estimate, Plan, plan_of, together
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.expert_removal import expert_steps, layout_of, some_experts
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
    experts = fewest_experts(workspace, settings, footprint)
    search = search_unless_experts(workspace, settings, footprint, experts)
    numbers = expected_of_dense(workspace, measured)
    workspace, windows = expected_windows(workspace, settings.calibration)
    compute = workspace.compute
    texts = measured_texts(measured, numbers)
    cost = measure(workspace.open_decoder, compute, windows.seq_len, windows.count, texts=texts)
    steps = calibration_steps(cost, windows)
    dense = bench_steps(cost, {DENSE: cost.sizes}, replace(measured, agreement=0), numbers, compute)
    made: list[tuple[str, bool, list[Estimate], ModelSizes]] = []  # what it is called, whether it stays, how, its sizes
    compared = search is not None and experts is not None  # with each other first; then the better one is made again
    if search is not None:
        rounds = min(search.fewest + 1, search.most)
        steps += search_estimate(workspace, cost, windows, search.settings, rounds)
        for count in dict.fromkeys(one for one in (search.fewest - 1, rounds, search.fewest) if one > 0):
            removed = middle_blocks(cost.sizes.depth, count)
            kept = count == search.fewest and not compared  # others are measured, and neither verified nor kept
            parts = removal_steps(
                workspace, cost, removed, windows=windows.count, heal=Heal.ALL, verify=settings.verify and kept
            )
            made.append((f"without {Cut(count).what}", kept, parts, cost.sizes.without(removed)))
    if experts is not None:
        layout = layout_of(workspace)
        for count in (*others_beside(experts, layout), experts):
            kept = search is None and count == experts
            parts, sizes = expert_steps(
                workspace, cost, windows, some_experts(layout, count),
                measured=count != experts, verify=settings.verify and kept,
            )  # fmt: skip
            made.append((f"without {Cut(count, experts=True).what}", kept, parts, sizes))
    steps.append(together("dense model, measured", dense))
    for name, kept, parts, sizes in made:
        parts += bench_steps(cost, {"": sizes, DENSE: cost.sizes}, measured, numbers, compute, known=DENSE)
        point = together(name, parts)
        steps.append(point if kept else replace(point, kept=0))
    if search is not None and compared:
        removed = middle_blocks(cost.sizes.depth, search.fewest)
        parts = removal_steps(workspace, cost, removed, windows=windows.count, heal=Heal.ALL, verify=settings.verify)
        steps.append(together("the better of both, made again", parts))
    remarks = ["Which blocks will go is not known yet: some from the middle are assumed"]
    return plan_of("prune", cost, steps, [*remarks, *calibration_remarks(windows)])
