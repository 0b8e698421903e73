"""``llmprune global-prune``."""

from llmprune.stages.weight_pruning.cost import plan_pruning, pruning_steps
from llmprune.stages.weight_pruning.decoder_pruning import prune_in_memory
from llmprune.stages.weight_pruning.selection import Selection, check_shapes, parse_layers, parse_parts
from llmprune.stages.weight_pruning.settings import PruningSettings
from llmprune.stages.weight_pruning.stage import PruningReport, global_prune

__all__ = [
    "PruningReport",
    "PruningSettings",
    "Selection",
    "check_shapes",
    "global_prune",
    "parse_layers",
    "parse_parts",
    "plan_pruning",
    "prune_in_memory",
    "pruning_steps",
]
