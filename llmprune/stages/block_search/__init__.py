"""``llmprune verify-redundancy``."""

from llmprune.stages.block_search.cost import TYPICAL_SURVIVORS, SearchCost, WindowCost, chunk_windows, spell_seconds
from llmprune.stages.block_search.stage import RedundancySettings, verify_redundancy

__all__ = [
    "TYPICAL_SURVIVORS",
    "RedundancySettings",
    "SearchCost",
    "WindowCost",
    "chunk_windows",
    "spell_seconds",
    "verify_redundancy",
]
