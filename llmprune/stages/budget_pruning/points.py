"""The models of a budget: the dense one, the chosen one and its two nearest alternatives, each measured once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.budget import BudgetResult
from llmprune.artifacts.records.healing import BlockHealing
from llmprune.artifacts.records.importance import Importance, RoundRecord
from llmprune.artifacts.records.sweep import DENSE, SweepPoint
from llmprune.choices import Heal
from llmprune.stages.benchmark import Benched, bench_in_run, benched_before, result_name
from llmprune.stages.block_removal import RemovalReport, RemovalSettings, remove_blocks
from llmprune.stages.budget_pruning.settings import BudgetSettings
from llmprune.stages.common.workspace import Workspace


@dataclass(frozen=True)
class Listeners:
    """Who hears of what is finished: every round of the search, and every block that is healed."""

    on_round: Callable[[RoundRecord], None] = lambda _: None
    on_block: Callable[[BlockHealing], None] = lambda _: None


def point_name(count: int) -> str:
    """What a model without so many blocks is called in the result."""
    return f"{count} block{'s' * (count != 1)} removed"


@dataclass(frozen=True)
class BudgetPoints:
    """Makes and measures models.

    Attributes:
        workspace: run directory and dense model.
        settings: the budget.
        ranking: says which blocks go, of one more than the budget asks for where there is one.
        on_block: called for every block as it is healed.
    """

    workspace: Workspace
    settings: BudgetSettings
    ranking: Importance
    on_block: Callable[[BlockHealing], None]

    def with_dense(self, result: BudgetResult) -> BudgetResult:
        """Measure the dense model, unless that was done, and write."""
        if result.dense is None:
            result = self._begun(result, DENSE)
            benched = self._bench(self.workspace.record.model, None, result.begun[DENSE])
            dense = SweepPoint(
                name=DENSE,
                metrics=benched.result.metrics,
                bench=benched.path,
                checkpoint=None,
                bench_seconds=benched.seconds,
            )
            result = result.model_copy(update={"dense": dense, "begun": _without(result.begun, DENSE)})
        return self._written(result)

    def with_alternative(self, result: BudgetResult, count: int) -> BudgetResult:
        """Make the model without so many blocks, measure it, and write; its files are in the way of nobody."""
        if self._is_measured(result, count):
            return result
        out = self.workspace.run.budget_folder / f"{count}-blocks"
        settings = RemovalSettings(target=str(count), heal=Heal.ALL, out=out, verify=False, force=True)
        return self._with_point(result, count, self._removed(settings), kept=False)

    def with_chosen(self, result: BudgetResult, count: int) -> tuple[RemovalReport, BudgetResult]:
        """The same of the model that was chosen, whose checkpoint stays."""
        settings = RemovalSettings(
            target=str(count),
            heal=Heal.ALL,
            out=self.settings.out,
            max_shard_bytes=self.settings.max_shard_bytes,
            verify=self.settings.verify,
            force=self.settings.force,
        )
        report = self._removed(settings)
        if self._is_measured(result, count):
            points = [
                self._placed(point, report) if point.name == point_name(count) else point for point in result.points
            ]
            return report, self._written(result.model_copy(update={"points": tuple(points)}))
        return report, self._with_point(result, count, report, kept=True)

    def _is_measured(self, result: BudgetResult, count: int) -> bool:
        known = result.point(point_name(count))
        return known is not None and known.removed == self.ranking.first(count)

    def _removed(self, settings: RemovalSettings) -> RemovalReport:
        self.workspace.progress.say(f"Removing {settings.target} blocks, and healing those that stay.")
        return remove_blocks(self.workspace, settings, on_block=self.on_block)

    def _with_point(self, result: BudgetResult, count: int, report: RemovalReport, *, kept: bool) -> BudgetResult:
        assert result.dense is not None and report.record.removal is not None
        dense, result = benched_before(self.workspace.run, result.dense.bench), self._begun(result, point_name(count))
        benched = self._bench(str(report.directory), dense, result.begun[point_name(count)])
        point = SweepPoint(
            name=point_name(count),
            target=str(count),
            removed=report.record.removal.removed,
            metrics=benched.result.metrics,
            bench=benched.path,
            checkpoint=None,
            commands=(report.record.made_by,),
            bench_seconds=benched.seconds,
        )
        others = tuple(one for one in result.points if one.name != point.name)
        point = self._placed(point, report) if kept else point
        begun = _without(result.begun, point.name)
        return self._written(result.model_copy(update={"points": (*others, point), "begun": begun}))

    def _placed(self, point: SweepPoint, report: RemovalReport) -> SweepPoint:
        place, run = report.directory.absolute(), self.workspace.run.path.absolute()
        inside = place.relative_to(run) if place.is_relative_to(run) else place
        return point.model_copy(update={"checkpoint": str(inside), "commands": (report.record.made_by,)})

    def _begun(self, result: BudgetResult, name: str) -> BudgetResult:
        """Note the file of a benchmark before it is measured: after an interruption the same file is written."""
        if name in result.begun:
            return result
        return self._written(result.model_copy(update={"begun": {**result.begun, name: result_name()}}))

    def _bench(self, model: str, dense: BenchResult | None, file: str) -> Benched:
        return bench_in_run(self.workspace, model, self.settings.bench, dense=dense, file=file)

    def _written(self, result: BudgetResult) -> BudgetResult:
        with self.workspace.writing():
            result.write(self.workspace.run.budget)
        return result


def _without(begun: Mapping[str, str], name: str) -> dict[str, str]:
    return {one: file for one, file in begun.items() if one != name}
