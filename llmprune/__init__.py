"""Turn a Hugging Face decoder-only LLM into a smaller or sparser stock checkpoint.

    >>> import llmprune
    >>> windows = llmprune.calibration_windows(tokenizer, "wikitext2")
    >>> ranking = llmprune.rank_blocks(model, windows)
    >>> smaller = llmprune.remove_blocks(model, ranking, target="20%")
    >>> sparser = llmprune.prune_weights(smaller, windows, pattern="2:4")

Importing this loads no torch: each name is imported when it is first used. See docs/python.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from llmprune import errors
from llmprune.version import __version__

if TYPE_CHECKING:
    from llmprune import algorithms
    from llmprune.api.apply_mask import apply_mask
    from llmprune.api.bench import Benchmark, bench
    from llmprune.api.checkpoints import PrunedCheckpoint
    from llmprune.api.heal import heal
    from llmprune.api.prune import BudgetedModel, prune
    from llmprune.api.prune_weights import prune_weights
    from llmprune.api.push import Publication, push
    from llmprune.api.rank_blocks import rank_blocks
    from llmprune.api.ranking import Ranking, Round
    from llmprune.api.remove_blocks import remove_blocks
    from llmprune.api.remove_experts import remove_experts
    from llmprune.api.run import Run
    from llmprune.api.windows import calibration_windows
    from llmprune.text.windows import TokenWindows

__all__ = [
    "Benchmark",
    "BudgetedModel",
    "PrunedCheckpoint",
    "Publication",
    "Ranking",
    "Round",
    "Run",
    "TokenWindows",
    "__version__",
    "algorithms",
    "apply_mask",
    "bench",
    "calibration_windows",
    "errors",
    "heal",
    "prune",
    "prune_weights",
    "push",
    "rank_blocks",
    "remove_blocks",
    "remove_experts",
]

_HOMES = {
    "Benchmark": "llmprune.api.bench",
    "BudgetedModel": "llmprune.api.prune",
    "PrunedCheckpoint": "llmprune.api.checkpoints",
    "Publication": "llmprune.api.push",
    "Ranking": "llmprune.api.ranking",
    "Round": "llmprune.api.ranking",
    "Run": "llmprune.api.run",
    "TokenWindows": "llmprune.text.windows",
    "apply_mask": "llmprune.api.apply_mask",
    "bench": "llmprune.api.bench",
    "calibration_windows": "llmprune.api.windows",
    "heal": "llmprune.api.heal",
    "prune": "llmprune.api.prune",
    "prune_weights": "llmprune.api.prune_weights",
    "push": "llmprune.api.push",
    "rank_blocks": "llmprune.api.rank_blocks",
    "remove_blocks": "llmprune.api.remove_blocks",
    "remove_experts": "llmprune.api.remove_experts",
}


def __getattr__(name: str) -> object:
    """Import what is asked for, when it is asked for."""
    if name == "algorithms":
        return import_module("llmprune.algorithms")
    if name not in _HOMES:
        raise AttributeError(f"module 'llmprune' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Everything that is offered, imported or not."""
    return sorted({*globals(), *__all__})
