"""``llmprune remove-blocks``."""

from llmprune.stages.block_removal.choose import choose_removal
from llmprune.stages.block_removal.cost import middle_blocks, plan_removal, removal_steps
from llmprune.stages.block_removal.settings import RemovalSettings, parse_blocks
from llmprune.stages.block_removal.stage import RemovalReport, remove_blocks

__all__ = [
    "RemovalReport",
    "RemovalSettings",
    "choose_removal",
    "middle_blocks",
    "parse_blocks",
    "plan_removal",
    "removal_steps",
    "remove_blocks",
]
