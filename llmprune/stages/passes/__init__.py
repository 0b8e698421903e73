"""Passes over a model's blocks that write weights: what they keep on disk, and how they go on when stopped."""

from llmprune.stages.passes.folder import PassFolder, PassState, pass_files, remove_pass, working_folder
from llmprune.stages.passes.stream import Entering, Stream

__all__ = ["Entering", "PassFolder", "PassState", "Stream", "pass_files", "remove_pass", "working_folder"]
