"""``llmprune remove-blocks``."""

from llmprune.stages.block_removal.choose import choose_removal
from llmprune.stages.block_removal.cost import plan_removal
from llmprune.stages.block_removal.settings import RemovalSettings, parse_blocks
from llmprune.stages.block_removal.stage import RemovalReport, remove_blocks

__all__ = ["RemovalReport", "RemovalSettings", "choose_removal", "parse_blocks", "plan_removal", "remove_blocks"]
