"""How many blocks go: the fewest of a ranking whose absence keeps the budget, and the ranking one round beyond them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from llmprune.artifacts.records.importance import Importance, RoundRecord
from llmprune.choices import Metric
from llmprune.errors import ArtifactError, TargetError
from llmprune.stages.block_search import RedundancySettings, as_recorded, protected_blocks, verify_redundancy
from llmprune.stages.budget_pruning.footprint import Footprint
from llmprune.stages.budget_pruning.settings import BudgetSettings
from llmprune.stages.common.workspace import Workspace


@dataclass(frozen=True)
class Search:
    """A ranking that is there, or still to be made.

    Attributes:
        settings: with which it goes on.
        ranked: blocks that it has ranked already.
        candidates: blocks that may be removed.
        fewest: how many of them must go at least.
    """

    settings: RedundancySettings
    ranked: int
    candidates: tuple[int, ...]
    fewest: int

    @property
    def most(self) -> int:
        """How many can go: one candidate stays."""
        return len(self.candidates) - 1


def planned_search(workspace: Workspace, settings: BudgetSettings, footprint: Footprint) -> Search:
    """Read the run's ranking, if it has one, and see that the budget can be kept.

    Raises:
        TargetError: it cannot.
        ArtifactError: the ranking is another model's, or a one-shot score's.
    """
    path, depth = workspace.run.importance, workspace.model.num_blocks
    redundancy, ranked = RedundancySettings(), 0
    if path.exists():
        known = Importance.read(path)
        known.check_belongs(workspace.model, path)
        if known.settings.metric is not Metric.SLEB:
            raise ArtifactError(
                f"{path} ranks blocks by {known.settings.metric}, which measures no loss; type `run=OTHER`, or: "
                "llmprune verify-redundancy --force"
            )
        redundancy, ranked = as_recorded(known.settings), len(known.order)
    protected = protected_blocks(redundancy, depth)
    candidates = tuple(block for block in range(depth) if block not in protected)
    return Search(redundancy, ranked, candidates, footprint.fewest(settings, candidates))


def search_unless_experts(
    workspace: Workspace, settings: BudgetSettings, footprint: Footprint, experts: int | None
) -> Search | None:
    """The same; None, and a remark, where so many ``experts`` can keep the budget and blocks cannot."""
    try:
        return planned_search(workspace, settings, footprint)
    except TargetError as error:
        if experts is None:
            raise
        workspace.progress.say(f"Only experts are removed, and no blocks: {error}")
        return None


def choose_blocks(
    workspace: Workspace,
    settings: BudgetSettings,
    footprint: Footprint,
    search: Search,
    on_round: Callable[[RoundRecord], None],
) -> tuple[int, Importance]:
    """How many blocks go, and the ranking that says which: of one more, where there is one.

    Where blocks differ in size or time the ranking decides how many that are, so it goes on until the budget is kept.

    Raises:
        TargetError: the ranking keeps the budget at no length.
        ArtifactError: a calibration of another model, or an importance file made with other settings.
    """
    for count in range(search.fewest, search.most + 1):
        target = str(min(count + 1, search.most))
        ranking = verify_redundancy(workspace, replace(search.settings, target=target), on_round=on_round)
        if footprint.keeps(settings, ranking.first(count)):
            return count, ranking
    raise TargetError(f"No {search.most} blocks of the ranking leave a model that is {settings.spelled}; ask for less.")
