"""A new checkpoint with every tensor, the config and the files of its source: what weights are then pruned in."""

from __future__ import annotations

from pathlib import Path

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint
from llmprune.artifacts.checkpoints.copying import Change, CopyReport, copy_tensors
from llmprune.artifacts.files.digests import copy_file
from llmprune.models.config import CONFIG_NAME
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.output.carried_files import carry_files


def copy_whole(
    workspace: Workspace, source: Checkpoint, output: Path, *, max_shard_bytes: int, change: Change | None = None
) -> CopyReport:
    """Copy all tensors of ``source`` into the folder ``output``, and the config and files of the workspace's model.

    Args:
        workspace: the source model.
        source: its tensors, some of them replaced perhaps.
        output: an empty folder.
        max_shard_bytes: largest weight file.
        change: what is changed in the tensors on the way, see ``copy_tensors``.

    Raises:
        CheckpointError: the files of ``source`` are not whole, or a weight that the model uses is NaN or infinite.
        LlmpruneError: the disk is full.
    """
    used = workspace.open_shell().used
    with workspace.progress.task("Writing", source.nbytes) as advance:
        copied = copy_tensors(
            source,
            {name: name for name in source.tensors},
            output,
            max_shard_bytes=max_shard_bytes,
            progress=advance,
            check_finite=used,
            change=change,
        )
    config = copy_file(workspace.directory / CONFIG_NAME, output / CONFIG_NAME)
    return copied.beside({CONFIG_NAME: config, **carry_files(workspace, output)})
