"""Opening a model on another rank than the one that found it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from llmprune.models.checkpoint_decoder import CheckpointDecoder
from llmprune.stages.common.progress import Silent
from llmprune.stages.common.workspace import Workspace


def opening_elsewhere(workspace: Workspace) -> Callable[[], CheckpointDecoder]:
    """What opens the workspace's model where it is sent to, on a device of that rank's own."""
    return partial(_opened, replace(workspace, progress=Silent()))


def _opened(workspace: Workspace) -> CheckpointDecoder:
    return replace(workspace, compute=workspace.compute.here()).open_decoder()
