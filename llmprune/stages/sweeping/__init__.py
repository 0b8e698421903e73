"""``llmprune sweep``."""

from llmprune.stages.common.params import parse_params
from llmprune.stages.sweeping.choice import Best, Limits, choose_best
from llmprune.stages.sweeping.settings import SweepSettings, parse_patterns, parse_targets
from llmprune.stages.sweeping.stage import PointDone, plan_sweep, sweep

__all__ = [
    "Best",
    "Limits",
    "PointDone",
    "SweepSettings",
    "choose_best",
    "parse_params",
    "parse_patterns",
    "parse_targets",
    "plan_sweep",
    "sweep",
]
