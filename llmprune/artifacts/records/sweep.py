"""``sweep.json``: the points of a sweep, what was done and measured for each, and the Pareto sets.

Paths are relative to the run directory, so that it can be moved. Commands are
as typed where the sweep was typed, see ``stages.common.command_line``.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from llmprune.artifacts.records.bench import BenchResult, Machine
from llmprune.artifacts.records.estimates import Estimate
from llmprune.artifacts.records.protocols import Protocols
from llmprune.artifacts.records.provenance import Artifact, BlockNumber, CorpusIdentity, ModelIdentity, Record

DENSE = "dense"
Axis = Literal["params", "effective_params", "latency"]


class SweepPruning(Record):
    """How all points were pruned. Points that were pruned in another way belong to another sweep.

    Attributes:
        method: how weights are pruned: ``sparsellm``, ``sparsegpt``, ``wanda`` or ``magnitude``.
        metric: how blocks are ranked: ``sleb``, ``block-influence`` or ``angular``.
        corpus: the calibration text.
        windows_fingerprint: SHA-256 of the calibration windows' tokens.
        windows: number of calibration windows.
        seq_len: tokens in each window.
    """

    method: str
    metric: str
    corpus: CorpusIdentity
    windows_fingerprint: str
    windows: int
    seq_len: int


class SweepPoint(Record):
    """One model of a sweep: the dense one, or a pruned one.

    Attributes:
        name: ``dense``, ``blocks 20%``, ``sparsity 50%``, ``blocks 20% + sparsity 37.5%``; unique in a sweep.
        target: the target of block removal, as typed; null: no block was removed.
        removed: the blocks, by their index in the dense model, in the order in which they were chosen.
        pattern: the pattern of zeros in the weights that are left: ``50%``, ``2:4``; null: no zeros were made.
        budget: for a combined point, the pattern that alone would leave the same number of weights that are not zero;
            null: the pattern was applied as typed.
        metrics: every figure of its benchmark by name, see docs/bench-schema.md; ratios are against the dense model.
        bench: the file of its benchmark, with every protocol, window and repeat.
        checkpoint: its directory; null once it was deleted.
        commands: what to type to make it again.
        prune_seconds: wall time of what had to be made for it; 0 where everything was there already.
        bench_seconds: wall time of its benchmark.
    """

    name: str
    target: str | None = None
    removed: tuple[BlockNumber, ...] = ()
    pattern: str | None = None
    budget: str | None = None
    metrics: dict[str, Estimate]
    bench: str
    checkpoint: str | None
    commands: tuple[str, ...] = ()
    prune_seconds: float = 0.0
    bench_seconds: float

    @model_validator(mode="after")
    def _was_measured(self) -> Self:
        """What every point is compared by is there, and what is divided by is positive."""
        lacking = {"params", "effective_params", "ppl", "ppl_ratio"} - self.metrics.keys()
        speed = self.metrics.get("generation_ratio")
        if lacking - ({"ppl_ratio"} if self.name == DENSE else set()):
            raise ValueError(f"the metrics lack {min(lacking)}")
        if speed is not None and min(speed.value, *(speed.interval or (speed.value,))) <= 0:
            raise ValueError("generation_ratio is not positive")
        return self

    def is_measured_in(self, run: Path) -> bool:
        """Whether the benchmark that is named lies in a run, with these figures: times and all, no other has them."""
        found = BenchResult.found(run / self.bench)
        return found is not None and found.metrics == self.metrics

    @property
    def params(self) -> float:
        """Number of stored weights, tied ones counted once."""
        return self.metrics["params"].value

    @property
    def effective_params(self) -> float:
        """Number of weights that are not zero."""
        return self.metrics["effective_params"].value

    @property
    def ppl_ratio(self) -> Estimate:
        """Perplexity over the dense model's: the worst of several texts; 1 for the dense model itself."""
        return self.metrics["ppl_ratio"] if self.name != DENSE else Estimate(value=1.0)

    @property
    def latency_ratio(self) -> Estimate | None:
        """Time of a generated token over the dense model's: the worst of several batch sizes.

        None: not measured, or the repeats leave it open by more than a factor of two.
        """
        if self.name == DENSE:
            return Estimate(value=1.0) if "generation" in self.metrics else None
        speed = self.metrics.get("generation_ratio")
        if speed is None or speed.interval is None or not speed.is_clear:
            return None
        return Estimate(value=1 / speed.value, interval=(1 / speed.interval[1], 1 / speed.interval[0]))

    def along(self, axis: Axis) -> float | None:
        """The figure that is set against the perplexity in a Pareto set; None: not measured."""
        if axis == "latency":
            return self.latency_ratio.value if self.latency_ratio else None
        return self.params if axis == "params" else self.effective_params


class SkippedPoint(Record):
    """A point that is left out: its combination makes no sense, or its numbers failed.

    Attributes:
        name: the name that it would have.
        reason: the reason, as a sentence.
    """

    name: str
    reason: str


class ParetoSets(Record):
    """Names of the points that no other point beats in both perplexity and one other figure, sorted by that figure.

    Attributes:
        params: perplexity against stored parameters.
        effective_params: against parameters that are not zero.
        latency: against the time of a generated token; empty where speed was not measured.
    """

    params: tuple[str, ...] = ()
    effective_params: tuple[str, ...] = ()
    latency: tuple[str, ...] = ()


class SweepResult(Artifact):
    """``sweep.json``, written again after every point.

    Attributes:
        model: the dense model.
        pruning: how all points were pruned.
        measuring: how all points were measured.
        planned: names of the points that were asked for last, in the order in which they are made. Those that are
            neither in ``points`` nor in ``skipped`` are still to be done.
        skipped: points that were asked for last and are left out.
        dense: the dense model; null before it was measured.
        points: the pruned models that are done, oldest first; some may come from earlier commands.
        begun: of points that are being measured, the files in ``bench/`` that their figures go to.
        machine: the machine that the dense model was measured on; each point's file has its own.
        pareto: the Pareto sets of the dense model and all points.
    """

    KIND: ClassVar[str] = "llmprune-sweep"

    kind: Literal["llmprune-sweep"] = "llmprune-sweep"
    schema_version: int = 1
    model: ModelIdentity
    pruning: SweepPruning
    measuring: Protocols
    planned: tuple[str, ...] = ()
    skipped: tuple[SkippedPoint, ...] = ()
    dense: SweepPoint | None = None
    points: tuple[SweepPoint, ...] = ()
    begun: dict[str, str] = Field(default_factory=dict)
    machine: Machine | None = None
    pareto: ParetoSets = ParetoSets()

    @property
    def measured(self) -> tuple[SweepPoint, ...]:
        """The dense point, then the others."""
        return (self.dense, *self.points) if self.dense else self.points
