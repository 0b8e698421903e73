"""Which transformer blocks can go: SLEB's greedy search, its early elimination, one-shot scores."""

from llmprune.algorithms.blocks.elimination import EliminationRule
from llmprune.algorithms.blocks.evaluator import BlockEvaluator, WindowLosses
from llmprune.algorithms.blocks.scores import (
    angular_distances,
    closest_run,
    cosine_similarity_sum,
    least_influential,
)
from llmprune.algorithms.blocks.search import (
    Candidate,
    ChunkDone,
    Round,
    forked_losses,
    greedy_rounds,
)
from llmprune.algorithms.blocks.target import removal_count

__all__ = [
    "BlockEvaluator",
    "Candidate",
    "ChunkDone",
    "EliminationRule",
    "Round",
    "WindowLosses",
    "angular_distances",
    "closest_run",
    "cosine_similarity_sum",
    "forked_losses",
    "greedy_rounds",
    "least_influential",
    "removal_count",
]
