"""What a run directory holds: everything that its report is made from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING

from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.expert_importance import ExpertImportance
from llmprune.artifacts.records.generations import Generations
from llmprune.artifacts.records.importance import Importance
from llmprune.artifacts.records.pruning import PruningRecord
from llmprune.artifacts.records.sweep import SweepResult
from llmprune.report.theme import Role

if TYPE_CHECKING:
    from llmprune.artifacts.activations import CalibrationManifest


@dataclass(frozen=True)
class Checkpoint:
    """A pruned checkpoint of the run.

    Attributes:
        name: the name of its directory.
        record: its ``llmprune.json``.
    """

    name: str
    record: PruningRecord


@dataclass(frozen=True)
class Measurement:
    """A benchmark of the run.

    Attributes:
        file: its name under ``bench/``.
        result: its content.
    """

    file: str
    result: BenchResult


@dataclass(frozen=True)
class RunContents:
    """Everything that was found in a run directory.

    Attributes:
        run: name of the directory.
        model: name of the dense model.
        calibration: the manifest; None: there is none.
        importance: the ranking; None: there is none.
        experts: what was measured of each expert; None: there is nothing.
        checkpoints: pruned checkpoints, oldest first.
        measurements: benchmarks, oldest first.
        sweep: its points; None: there was none.
        generations: what models wrote; None: nothing was kept.
        remarks: what a reader must know about the artifacts.
    """

    run: str
    model: str
    calibration: CalibrationManifest | None = None
    importance: Importance | None = None
    experts: ExpertImportance | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    sweep: SweepResult | None = None
    generations: Generations | None = None
    remarks: tuple[str, ...] = ()

    @property
    def results(self) -> tuple[BenchResult, ...]:
        """Benchmarks that do not belong to a sweep, oldest first. Without any, the newest benchmark of the sweep."""
        swept = {PurePath(point.bench).name for point in self.sweep.measured} if self.sweep else set()
        own = tuple(one.result for one in self.measurements if one.file not in swept)
        return own or tuple(one.result for one in self.measurements[-1:])

    @property
    def has_experts(self) -> bool:
        """Whether experts were measured or removed."""
        return self.experts is not None or any(one.record.experts for one in self.checkpoints)

    def with_remarks(self, remarks: tuple[str, ...]) -> RunContents:
        """The same contents with these remarks."""
        return replace(self, remarks=remarks)

    def role_of(self, name: str) -> Role:
        """What was done to the model of that name."""
        records = [one.record for one in self.checkpoints if one.name == name]
        return role_of(records[-1]) if records else "dense" if name == self.model else "weights"

    @property
    def removed(self) -> tuple[int, ...]:
        """Blocks removed in the newest checkpoint, by their index in the dense model; else those the search chose."""
        for one in reversed(self.checkpoints):
            if one.record.removal is not None and one.record.source_record is None:
                return one.record.removal.removed
        return self.importance.order if self.importance is not None and self.importance.rounds else ()


def role_of(record: PruningRecord) -> Role:
    """What was done to a checkpoint, earlier steps included."""
    chain = [record]
    while chain[-1].source_record is not None:
        chain.append(chain[-1].source_record)
    removed, zeroed = any(one.removal or one.experts for one in chain), any(one.pruned_tensors for one in chain)
    return "both" if removed and zeroed else "blocks" if removed else "weights"
