"""Passes over a model's blocks that write weights: what they keep on disk, and how they go on when stopped."""

from llmprune.stages.passes.folder import PassFolder, PassState, pass_files, remove_pass, working_folder
from llmprune.stages.passes.stream import CachedStates, Entering, Stream, cached_states

__all__ = [
    "CachedStates",
    "Entering",
    "PassFolder",
    "PassState",
    "Stream",
    "cached_states",
    "pass_files",
    "remove_pass",
    "working_folder",
]
