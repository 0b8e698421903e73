"""Whether blocks of a run's model can be removed, checked before anything that takes long."""

from __future__ import annotations

from functools import partial

from llmprune.models.architecture import empty_model
from llmprune.models.config import load_config, read_config
from llmprune.models.removability import RemovalCheck
from llmprune.stages.common.workspace import Workspace


def open_check(workspace: Workspace) -> RemovalCheck:
    """What tells whether blocks of the workspace's model can be removed.

    Raises:
        ModelError: the model cannot be run block by block at all.
    """
    return RemovalCheck(
        read_config(workspace.directory),
        load_config(workspace.directory, trust_remote_code=workspace.trust_remote_code),
        frozenset(workspace.open_decoder().plan.places.by_tensor.values()),
        make=partial(empty_model, dtype=workspace.dtype, trust_remote_code=workspace.trust_remote_code),
        device=workspace.compute.device,
    )
