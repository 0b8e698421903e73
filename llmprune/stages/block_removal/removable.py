"""Seeing that blocks of a run's model can be removed, before anything takes long."""

from __future__ import annotations

import json

from llmprune.models.loading import load_config
from llmprune.models.removability import RemovalCheck
from llmprune.stages.common.workspace import Workspace


def open_check(workspace: Workspace) -> RemovalCheck:
    """What tells whether blocks of the workspace's model can be removed.

    Raises:
        ModelError: the model cannot be run block by block at all.
    """
    names = workspace.open_decoder().names
    return RemovalCheck(
        json.loads((workspace.directory / "config.json").read_text(encoding="utf-8")),
        load_config(workspace.directory, trust_remote_code=workspace.trust_remote_code),
        names,
        device=workspace.compute.device,
        dtype=workspace.dtype,
        trust_remote_code=workspace.trust_remote_code,
    )
