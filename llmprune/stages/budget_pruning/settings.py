"""The settings of ``prune``: a budget, and how what comes of it is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

from llmprune.artifacts.checkpoints.copying import DEFAULT_SHARD_BYTES
from llmprune.errors import TargetError
from llmprune.stages.benchmark import BenchSettings
from llmprune.stages.calibration import CalibrationSettings
from llmprune.stages.common.params import ParamLimit, parse_params


@dataclass(frozen=True)
class BudgetSettings:
    """What the pruned model is to fit into, and where to write it.

    Attributes:
        size: the most stored parameters: ``70%`` of the dense model's, ``100M``, ``1.5B``.
        speed_up: how many times as fast it is to generate.
        calibration: how to calibrate; None: the run's calibration, or the usual one.
        measured: how the models are measured, see ``bench``.
        out: the new checkpoint's directory; None: in the run directory, named after what is kept.
        max_shard_bytes: largest weight file.
        verify: reload the result and compare it with the bypassed source.
        force: replace an output directory that holds another checkpoint, and measure anew.

    Raises:
        TargetError: no budget, or two, or one that no model could keep.
    """

    size: str | None = None
    speed_up: float | None = None
    calibration: CalibrationSettings | None = None
    measured: BenchSettings = field(default_factory=lambda: BenchSettings(speed=False, agreement=0))
    out: Path | None = None
    max_shard_bytes: int = DEFAULT_SHARD_BYTES
    verify: bool = True
    force: bool = False

    def __post_init__(self) -> None:
        if (self.size is None) == (self.speed_up is None):
            raise TargetError("Give one budget: a size such as `size=70%` or `size=100M`, or `speed_up=1.3`.")
        if self.speed_up is not None and not 1 < self.speed_up < math.inf:
            raise TargetError(f"`speed_up={self.speed_up:g}` is out of range; type a number above 1, such as 1.3.")
        limit = self.limit
        if limit is not None and limit.share and not 0 < limit.number < 1:
            raise TargetError(f"`size={limit.text}` is not between 0% and 100%; type for example `size=70%`.")

    @property
    def bench(self) -> BenchSettings:
        """How the models are measured: speed too, just where the budget is one of speed."""
        return replace(self.measured, speed=self.speed_up is not None)

    @property
    def limit(self) -> ParamLimit | None:
        """The parsed ``size``."""
        return parse_params(self.size, "`size`")

    @property
    def spelled(self) -> str:
        """The budget in words."""
        return f"{self.speed_up:g} times as fast" if self.size is None else f"at most {self.size} of parameters"
