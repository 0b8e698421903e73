"""A run directory and what it holds, as objects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmprune.api.bench import Benchmark
from llmprune.api.checkpoints import PrunedCheckpoint, open_pruned
from llmprune.api.rank_blocks import ranking_of
from llmprune.api.ranking import Ranking
from llmprune.api.windows import windows_of
from llmprune.artifacts.activations import Calibration, open_calibration
from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.expert_importance import ExpertImportance
from llmprune.artifacts.records.sweep import SweepResult
from llmprune.artifacts.run import RunDirectory
from llmprune.text.windows import TokenWindows


@dataclass(frozen=True, repr=False)
class Run:
    """A run directory, where the command line and functions with ``run`` keep what they finished.

    Everything is read when it is asked for. What is not there is None, or an empty list.

    Attributes:
        path: the directory.
    """

    path: Path | str

    @property
    def model(self) -> str | None:
        """The model that the run belongs to: a Hub id or an absolute path; None before anything was written."""
        known = self._directory.record()
        return known.model if known else None

    @property
    def calibration(self) -> Calibration | None:
        """The calibration; ``calibration.manifest`` has what one pass over the dense model measured.

        Raises:
            ArtifactError: it is damaged.
        """
        place = self._directory.calibration
        return open_calibration(place) if place.exists() else None

    @property
    def windows(self) -> TokenWindows | None:
        """The windows of the calibration."""
        known = self.calibration
        return windows_of(known) if known is not None else None

    @property
    def ranking(self) -> Ranking | None:
        """The blocks in the order in which they can go, as far as they are ranked.

        To go on, rank with the model: ``rank_blocks(run.model, run=run.path)``.

        Raises:
            ArtifactError: it is damaged.
        """
        place = self._directory.importance
        return ranking_of(place) if place.exists() else None

    @property
    def experts(self) -> ExpertImportance | None:
        """What was measured of each expert, for ``remove_experts``.

        Raises:
            ArtifactError: it is damaged.
        """
        place = self._directory.experts
        return ExpertImportance.read(place) if place.exists() else None

    @property
    def checkpoints(self) -> list[PrunedCheckpoint]:
        """The pruned checkpoints that still exist, oldest first.

        Raises:
            ArtifactError: one is damaged.
        """
        return [open_pruned(path) for path in self._directory.existing_checkpoints()]

    @property
    def benchmarks(self) -> list[Benchmark]:
        """The benchmarks, oldest first.

        Raises:
            ArtifactError: one is damaged.
        """
        return [Benchmark(BenchResult.read(path), path) for path in sorted(self._directory.bench.glob("*.json"))]

    @property
    def sweep(self) -> SweepResult | None:
        """The sweep.

        Raises:
            ArtifactError: it is damaged.
        """
        place = self._directory.sweep
        return SweepResult.read(place) if place.exists() else None

    def __repr__(self) -> str:
        known = self._directory.record()
        if known is None:
            return f"{self.path}: nothing yet"
        lines = [f"{self.path}, of {known.name}"]
        if (windows := self.windows) is not None:
            lines.append(f"calibration: {windows}")
        if (ranking := self.ranking) is not None:
            lines.append(f"ranking: {', '.join(map(str, ranking.order))}")
        if (experts := self.experts) is not None:
            lines.append(f"experts: measured in {len(experts.blocks)} blocks")
        lines += [f"checkpoint: {made.directory.name}" for made in self.checkpoints]
        lines += [f"benchmark: {found.result.model.name}, {found.result.created}" for found in self.benchmarks]
        if (sweep := self.sweep) is not None:
            lines.append(f"sweep: {len(sweep.points)} points")
        return "\n".join(lines)

    @property
    def _directory(self) -> RunDirectory:
        return RunDirectory(Path(self.path))
