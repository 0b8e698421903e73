"""Weights that are no safetensors become a checkpoint of a run, once."""

from __future__ import annotations

from pathlib import Path

from llmprune.models.gguf import convert_gguf
from llmprune.models.pickles import convert_pickles
from llmprune.models.source import ModelSource
from llmprune.stages.common.progress import Progress


def convert(source: ModelSource, directory: Path, progress: Progress, *, trust_remote_code: bool) -> None:
    """Make a checkpoint of a GGUF file or of pickled weights.

    Args:
        source: the file, or the directory with pickles.
        directory: the new checkpoint; all of it or nothing.
        progress: who hears of it.
        trust_remote_code: whether the model's own Python files may run.

    Raises:
        ModelError: it cannot be read, or its weights are not what its config says.
        CheckpointError: a pickle needs more than tensors, or is not whole.
        LlmpruneError: the disk is full.
    """
    if source.is_gguf:
        progress.say(f"Converting {source.path.name} to a float32 checkpoint in {directory} (once).")
        convert_gguf(source.path, directory)
    else:
        progress.say(f"Converting the pickled weights of {source.name} to safetensors in {directory} (once).")
        convert_pickles(source.path, directory, trust_remote_code=trust_remote_code)
