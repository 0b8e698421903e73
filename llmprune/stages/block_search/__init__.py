"""``llmprune verify-redundancy``."""

from llmprune.stages.block_search.cost import SearchCost, WindowCost
from llmprune.stages.block_search.estimate import plan_search, search_estimate
from llmprune.stages.block_search.one_shot import order_blocks, score_blocks
from llmprune.stages.block_search.removable import Removable, open_check
from llmprune.stages.block_search.search import dense_loss, search_rounds, window_evaluator
from llmprune.stages.block_search.settings import RedundancySettings, as_recorded, protected_blocks, solving_windows
from llmprune.stages.block_search.stage import search_steps, verify_redundancy

__all__ = [
    "RedundancySettings",
    "Removable",
    "SearchCost",
    "WindowCost",
    "as_recorded",
    "dense_loss",
    "open_check",
    "order_blocks",
    "plan_search",
    "protected_blocks",
    "score_blocks",
    "search_estimate",
    "search_rounds",
    "search_steps",
    "solving_windows",
    "verify_redundancy",
    "window_evaluator",
]
