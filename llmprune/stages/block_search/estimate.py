"""What ``verify-redundancy`` takes."""

from __future__ import annotations

from llmprune.artifacts.records.importance import Importance
from llmprune.choices import Metric
from llmprune.models.compute import Compute
from llmprune.models.residency import blocks_that_fit
from llmprune.stages.block_search.cost import SearchCost, WindowCost, divide_memory
from llmprune.stages.block_search.evaluator import whole_batches
from llmprune.stages.block_search.settings import RedundancySettings, protected_blocks, solving_windows
from llmprune.stages.calibration import Windows, calibration_remarks, calibration_steps, expected_windows
from llmprune.stages.common.model_cost import ModelCost, model_cost
from llmprune.stages.common.plans import Estimate, Plan, plan_of
from llmprune.stages.common.workspace import Workspace

_RECORD_BYTES, _CANDIDATE_BYTES = 1200, 140  # of importance.json, and of a candidate in it, about


def plan_search(workspace: Workspace, settings: RedundancySettings, *, force: bool = False) -> Plan:
    """What ``verify-redundancy`` is expected to take, with the calibration that it may have to make first.

    Raises:
        As ``verify_redundancy`` does, as far as settings and artifacts alone tell.
    """
    workspace, windows = expected_windows(workspace)
    count = settings.count(workspace.model.num_blocks)
    cost = model_cost(workspace, windows.seq_len, windows.count)
    steps = calibration_steps(cost, windows) + search_estimate(workspace, cost, windows, settings, count, force=force)
    remarks = ["Swaps are not in it: each that is tried takes about a round"] if settings.swap else []
    return plan_of("verify-redundancy", cost, steps, [*remarks, *calibration_remarks(windows)])


def search_estimate(
    workspace: Workspace,
    cost: ModelCost,
    windows: Windows,
    settings: RedundancySettings,
    count: int,
    *,
    force: bool = False,
) -> list[Estimate]:
    """The step of a search for ``count`` blocks, less the rounds that the run has; none where it has all."""
    ranked: tuple[int, ...] = ()
    path = workspace.run.importance
    if path.exists() and not force:
        known = Importance.read(path)
        known.check_belongs(workspace.model, path)
        if known.has_best(count):
            return []
        ranked = known.order
    if settings.metric != Metric.SLEB:
        return [Estimate("ranking", written=_CANDIDATE_BYTES * cost.sizes.depth, kept=_CANDIDATE_BYTES)]
    return [_searching(cost, windows, settings, workspace.compute, ranked, count)]


def _searching(
    cost: ModelCost,
    windows: Windows,
    settings: RedundancySettings,
    compute: Compute,
    ranked: tuple[int, ...],
    count: int,
) -> Estimate:
    sizes, solving = cost.sizes, solving_windows(windows.count, settings)
    measured, solved_on = cost.own(windows.count - solving), cost.own(solving)
    wide = 2 * solved_on * cost.window_bytes
    division = divide_memory(
        sizes.blocks,
        cost.window_bytes,
        measured,
        settings,
        solved_on=solved_on,
        compute=compute,
        taken=sizes.outside,
    )
    batch = min(settings.batch_size or cost.batch, settings.chunk_windows or cost.batch)

    def fitting(states: int, windows: int) -> int:
        most = settings.chunk_windows or division.states // (states * cost.window_bytes)
        return whole_batches(windows, most, batch=batch)

    search = SearchCost(
        remaining=tuple(block for block in range(sizes.depth) if block not in ranked),
        protected=protected_blocks(settings, sizes.depth),
        rounds=count - len(ranked),
        windows=measured,
        eliminates=settings.eliminates,
        fitting=fitting,
        solved_on=solved_on,
    )
    first = blocks_that_fit(sizes.blocks, division.device)
    kept = sum(sizes.blocks[:first])
    walk = sum(sizes.blocks_stored[blocks_that_fit(sizes.blocks, division.host, first=first) :])
    times = WindowCost(block=cost.times.block, head=cost.times.head, reading=walk * cost.opening)
    states = max(together * left for together, left in search.chunks(0)) * cost.window_bytes
    one = min(batch, measured) * cost.window_bytes  # a state that is in memory though all lie in a file
    held = states + states // len(search.remaining) if states <= division.states else 2 * one
    filed = (states if states > division.states else 0) + (wide if wide > division.beside else 0)
    holes = kept if cost.on_host and sizes.copied else 0  # left in memory by what blocks were converted from
    memory = cost.memory(cost.running + kept + held + min(wide, division.beside), host=holes)
    walks = sum(search.walks(gone) for gone in range(search.rounds))
    candidates = len(search.remaining) - len(search.protected)
    record = _RECORD_BYTES + search.rounds * candidates * _CANDIDATE_BYTES
    return Estimate(
        "search",
        memory.host,
        memory.device,
        disk=2 * record + filed,
        kept=record,
        read=sizes.stored + walk * (walks - 1) + filed * sizes.depth * walks // 2,
        written=record * (search.rounds + 1) // 2 + filed * sizes.depth * walks // 2,
        seconds=search.seconds(times, typical=True) + (sizes.stored - walk) * cost.opening,
    )
