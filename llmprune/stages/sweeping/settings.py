"""The settings of a sweep, checked before any model is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from llmprune.algorithms.weights.patterns import Pattern, parse_pattern, parse_sparsity
from llmprune.choices import Combine, Method, Metric
from llmprune.errors import TargetError
from llmprune.stages.benchmark import BenchSettings
from llmprune.stages.calibration import CalibrationSettings
from llmprune.stages.common.checks import require_target
from llmprune.stages.sweeping.choice import Limits


@dataclass(frozen=True)
class SweepSettings:
    """The grid, and how its points are made and measured.

    Attributes:
        targets: of block removal.
        patterns: of zeros.
        combine: both at once: ``budget`` makes only so many zeros beside the removed blocks that as many weights are
            left as with the zeros alone, ``grid`` prunes what is left by the same pattern, ``none`` combines nothing.
        method: what prunes weights.
        metric: what ranks blocks; None: what the run's own ranking is by, or ``sleb`` where there is none.
        calibration: how to calibrate; None: the run's own calibration, or a usual one where there is none.
        bench: what to measure.
        keep: keep the checkpoints; else each is deleted once it was measured and nothing more is made from it.
        limits: what the best point is to be within.
        verify: reload every checkpoint and compare it with its source.
        force: give up what was measured with other settings.

    Raises:
        TargetError: nothing to sweep, a value that no model could satisfy, or one that was typed twice.
    """

    targets: tuple[str, ...] = ()
    patterns: tuple[Pattern, ...] = ()
    combine: Combine = Combine.BUDGET
    method: Method = Method.SPARSELLM
    metric: Metric | None = None
    calibration: CalibrationSettings | None = None
    bench: BenchSettings = field(default_factory=BenchSettings)
    keep: bool = True
    limits: Limits = field(default_factory=Limits)
    verify: bool = True
    force: bool = False

    @property
    def measured(self) -> BenchSettings:
        """What is measured: without greedy agreement, for which every point would load the dense model again."""
        return replace(self.bench, agreement=0, draft=False)

    def __post_init__(self) -> None:
        if not (self.targets or self.patterns):
            raise TargetError(
                "There is nothing to sweep; type `targets=10%,20%`, `sparsity=0.5,0.6` or `pattern=2:4`, or several of "
                "them."
            )
        for target in self.targets:
            require_target(target)
        if any(pattern.ratio == 0 for pattern in self.patterns):
            raise TargetError("`sparsity=0` is the dense model, which every sweep measures anyway; leave it out.")
        if not self.bench.ppl:
            raise TargetError("A sweep compares perplexities; leave out `ppl=None`.")
        if not self.bench.speed and self.limits.latency_ratio is not None:
            raise TargetError("`max_latency_ratio` is about speed; leave out `speed=False`.")
        _require_once("`targets`", self.targets)
        _require_once("`sparsity` or `pattern`", [str(pattern) for pattern in self.patterns])


def parse_targets(text: str | None) -> tuple[str, ...]:
    """Read ``--targets 10%,20%,6``; None is no target.

    Raises:
        TargetError: a part that is no target.
    """
    return () if text is None else _parts("targets", text, "10%,20%,30%")


def parse_patterns(sparsity: str | None, pattern: str | None) -> tuple[Pattern, ...]:
    """Read ``--sparsity 0.5,60%`` and ``--pattern 2:4,4:8``, either of which may be None.

    Raises:
        TargetError: a part that is no sparsity, or no pattern.
    """
    ratios = () if sparsity is None else _parts("sparsity", sparsity, "0.5,0.6,0.7")
    groups = () if pattern is None else _parts("pattern", pattern, "2:4")
    return (*map(parse_sparsity, ratios), *map(parse_pattern, groups))


def _parts(argument: str, text: str, example: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise TargetError(f"`{argument}='{text:.60}'` has an empty value; type for example `{argument}={example}`.")
    return parts


def _require_once(arguments: str, values: Sequence[str]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise TargetError(f"{arguments} names {value} twice; type every value once.")
