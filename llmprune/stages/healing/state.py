"""What a healing pass keeps of itself in its folder."""

from __future__ import annotations

from llmprune.artifacts.records.healing import BlockHealing, HealingSettings
from llmprune.stages.passes import PassState


class HealingPassState(PassState):
    """What a pass runs on, and what it has finished; ``entering`` is a place in the pruned model.

    Attributes:
        dense: the block of the dense model that its hidden states enter.
        loss: mean loss of the model on the held-back windows, healed so far; None: not measured yet.
    """

    settings: HealingSettings
    blocks: tuple[BlockHealing, ...] = ()
    dense: int = 0
    loss: float | None = None
