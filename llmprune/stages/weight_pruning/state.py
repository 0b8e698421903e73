"""What a pass of ``global-prune`` keeps of itself in its folder."""

from __future__ import annotations

from llmprune.artifacts.records.weight_sparsity import BlockRecord, SparsitySettings
from llmprune.stages.passes import PassState


class PruningPassState(PassState):
    """What a pass runs on, and what it has finished."""

    settings: SparsitySettings
    blocks: tuple[BlockRecord, ...] = ()
