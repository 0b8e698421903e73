"""The models of a budget: the dense one, the chosen one and its two nearest alternatives, each measured once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.budget import BudgetResult
from llmprune.artifacts.records.healing import BlockHealing
from llmprune.artifacts.records.importance import Importance, RoundRecord
from llmprune.artifacts.records.pruning import PruningRecord
from llmprune.artifacts.records.sweep import DENSE, SweepPoint
from llmprune.choices import Heal
from llmprune.stages.benchmark import Benched, bench_in_run, benched_before, result_name
from llmprune.stages.block_removal import RemovalSettings, remove_blocks
from llmprune.stages.budget_pruning.experts import held_back_loss
from llmprune.stages.budget_pruning.settings import BudgetSettings
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.expert_removal import ExpertSettings, remove_experts


@dataclass(frozen=True)
class Listeners:
    """Who hears of what is finished: every round of the search, and every block that is healed."""

    on_round: Callable[[RoundRecord], None] = lambda _: None
    on_block: Callable[[BlockHealing], None] = lambda _: None


@dataclass(frozen=True)
class Cut:
    """A way to make a model smaller.

    Attributes:
        count: blocks that go, in the order of the run's ranking.
        experts: so many experts of each block go instead.
    """

    count: int
    experts: bool = False

    @property
    def what(self) -> str:
        """What goes."""
        what = "expert" if self.experts else "block"
        return f"{self.count} {what}{'s' * (self.count != 1)}{' of each block' * self.experts}"

    @property
    def name(self) -> str:
        """What the model is called in the result."""
        return f"{self.what} removed"

    @property
    def folder(self) -> str:
        """Where it lies while it is measured."""
        return f"{self.count}-{'experts' if self.experts else 'blocks'}"


@dataclass(frozen=True)
class Made:
    """A checkpoint that was written.

    Attributes:
        directory: where.
        record: its ``llmprune.json``.
    """

    directory: Path
    record: PruningRecord


@dataclass(frozen=True)
class BudgetPoints:
    """Makes and measures models.

    Attributes:
        workspace: run directory and dense model.
        settings: the budget.
        ranking: says which blocks go, of one more than the budget asks for where there is one; None: only experts go.
        tokens: all calibration windows (num_windows, seq_len) int64.
        on_block: called for every block as it is healed.
    """

    workspace: Workspace
    settings: BudgetSettings
    ranking: Importance | None
    tokens: Tensor
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

    def with_compared(self, result: BudgetResult, cuts: Sequence[Cut]) -> tuple[Cut, BudgetResult]:
        """Of several ways to keep the budget, the one whose model loses least on windows that healing held back."""
        if len(cuts) > 1:
            for cut in cuts:
                result = self.with_alternative(result, cut, compared=True)
        return min(cuts, key=lambda cut: result.losses.get(cut.name, 0.0)), result

    def with_alternative(self, result: BudgetResult, cut: Cut, *, compared: bool = False) -> BudgetResult:
        """Make a model, measure it, and write; its files are in the way of nobody."""
        if self._is_measured(result, cut) and (not compared or cut.name in result.losses):
            return result
        made = self._made(cut, self.workspace.run.budget_folder / cut.folder, verify=False, force=True)
        if compared:
            loss = held_back_loss(self.workspace, made.directory, self.tokens)
            self.workspace.progress.say(f"{cut.name}: loss {loss:.4f} nats/token on windows that healing held back.")
            result = result.model_copy(update={"losses": {**result.losses, cut.name: loss}})
        return self._with_point(result, cut, made, kept=False)

    def with_chosen(self, result: BudgetResult, cut: Cut) -> tuple[Made, BudgetResult]:
        """The same of the model that was chosen, whose checkpoint stays."""
        made = self._made(cut, self.settings.out, verify=self.settings.verify, force=self.settings.force)
        if self._is_measured(result, cut):
            points = [self._placed(point, made) if point.name == cut.name else point for point in result.points]
            return made, self._written(result.model_copy(update={"points": tuple(points)}))
        return made, self._with_point(result, cut, made, kept=True)

    def _is_measured(self, result: BudgetResult, cut: Cut) -> bool:
        known = result.point(cut.name)
        return known is not None and (cut.experts or known.removed == self._ranked(cut))

    def _ranked(self, cut: Cut) -> tuple[int, ...]:
        assert self.ranking is not None, "blocks go by a ranking"
        return self.ranking.first(cut.count)

    def _made(self, cut: Cut, out: Path | None, *, verify: bool, force: bool) -> Made:
        shard_bytes = self.settings.max_shard_bytes
        if cut.experts:
            self.workspace.progress.say(f"Removing {cut.what}.")
            experts = ExpertSettings(str(cut.count), out=out, max_shard_bytes=shard_bytes, verify=verify, force=force)
            without = remove_experts(self.workspace, experts)
            return Made(without.directory, without.record)
        self.workspace.progress.say(f"Removing {cut.count} blocks, and healing those that stay.")
        blocks = RemovalSettings(
            target=str(cut.count), heal=Heal.ALL, out=out, max_shard_bytes=shard_bytes, verify=verify, force=force
        )
        report = remove_blocks(self.workspace, blocks, on_block=self.on_block)
        return Made(report.directory, report.record)

    def _with_point(self, result: BudgetResult, cut: Cut, made: Made, *, kept: bool) -> BudgetResult:
        assert result.dense is not None
        dense, result = benched_before(self.workspace.run, result.dense.bench), self._begun(result, cut.name)
        benched = self._bench(str(made.directory), dense, result.begun[cut.name])
        point = SweepPoint(
            name=cut.name,
            target=None if cut.experts else str(cut.count),
            removed=made.record.removal.removed if made.record.removal is not None else (),
            metrics=benched.result.metrics,
            bench=benched.path,
            checkpoint=None,
            commands=(made.record.made_by,),
            bench_seconds=benched.seconds,
        )
        others = tuple(one for one in result.points if one.name != point.name)
        point = self._placed(point, made) if kept else point
        begun = _without(result.begun, point.name)
        return self._written(result.model_copy(update={"points": (*others, point), "begun": begun}))

    def _placed(self, point: SweepPoint, made: Made) -> SweepPoint:
        place, run = made.directory.absolute(), self.workspace.run.path.absolute()
        inside = place.relative_to(run) if place.is_relative_to(run) else place
        return point.model_copy(update={"checkpoint": str(inside), "commands": (made.record.made_by,)})

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
