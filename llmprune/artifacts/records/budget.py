"""``prune.json``: a model pruned to a budget, and what stands beside it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from llmprune.artifacts.records.protocols import Protocols
from llmprune.artifacts.records.provenance import Artifact, ModelIdentity, Record
from llmprune.artifacts.records.sweep import SweepPoint


class StepTimes(Record):
    """Seconds of one decoding step, as they were measured.

    Attributes:
        blocks: of every block, in order.
        rest: of everything else: embedding, last norm and head.
        batch: sequences that the step was for.
    """

    blocks: tuple[float, ...]
    rest: float
    batch: int


class BudgetResult(Artifact):
    """``prune.json``, written again after every model that is measured.

    Attributes:
        model: the dense model.
        size: the most parameters, as typed; null: another budget.
        speed_up: how many times as fast; null: another budget.
        times: of a decoding step of the dense model; null where the budget is a size.
        windows_fingerprint: SHA-256 of the calibration windows' tokens, which blocks were ranked and healed on.
        measuring: how all models were measured.
        dense: the dense model; null before it was measured.
        begun: of models that are being measured, the files in ``bench/`` that their figures go to.
        points: pruned models that are measured, of this budget and of earlier ones.
        losses: of the ways to keep the budget that were compared, the mean loss in nats/token on the calibration
            windows that healing solves nothing on; empty where there was one way.
        chosen: name of the model that was chosen; null: not decided yet.
        beside: names of the nearest alternatives: one block (or as many experts as can go) fewer and more, where there
            are such, and the other way to keep the budget.
    """

    KIND: ClassVar[str] = "llmprune-prune"

    kind: Literal["llmprune-prune"] = "llmprune-prune"
    schema_version: int = 1
    model: ModelIdentity
    size: str | None
    speed_up: float | None
    times: StepTimes | None
    windows_fingerprint: str
    measuring: Protocols
    dense: SweepPoint | None = None
    begun: dict[str, str] = Field(default_factory=dict)
    points: tuple[SweepPoint, ...] = ()
    losses: dict[str, float] = Field(default_factory=dict)
    chosen: str | None = None
    beside: tuple[str, ...] = ()

    def point(self, name: str) -> SweepPoint | None:
        """What was measured of a model; None: not yet."""
        return next((point for point in self.points if point.name == name), None)
