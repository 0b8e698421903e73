"""Fewer experts in place of fewer blocks: how many must go, and which of two pruned models loses less."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean

from torch import Tensor

from llmprune.errors import ModelError, TargetError
from llmprune.evaluation.perplexity import streamed_window_losses
from llmprune.models.checkpoint_decoder import CheckpointDecoder
from llmprune.models.expert_surgery import ExpertCut, ExpertLayout, expert_layout
from llmprune.models.experts import expert_modules
from llmprune.stages.budget_pruning.footprint import Footprint
from llmprune.stages.budget_pruning.settings import BudgetSettings
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.expert_removal import plan_cut, require_routable, some_experts
from llmprune.stages.healing import held_back


def fewest_experts(workspace: Workspace, settings: BudgetSettings, footprint: Footprint) -> int | None:
    """How many experts of each block must go at least, so that a mixture keeps a size; None: it has none that could.

    A budget of speed is kept by blocks alone: a token is sent to as many experts as before.
    """
    shell = workspace.open_shell()
    if settings.limit is None or not any(map(expert_modules, shell.blocks)):
        return None
    try:
        layout = expert_layout(shell.model, shell.model.config)
        each = _parameters(shell, plan_cut(workspace, some_experts(layout, layout.groups))) // layout.groups
    except ModelError as error:
        workspace.progress.say(f"Only blocks are removed, and no experts: {error}")
        return None
    count = math.ceil((footprint.stored - settings.limit.of(footprint.stored)) / (each * layout.groups)) * layout.groups
    if count <= 0:  # as it is: nothing needs to go
        return None
    if _is_routable(count, layout):
        return count
    workspace.progress.say(
        f"Only blocks are removed: {settings.spelled} would take {count} of {layout.count} experts of each block, "
        "and tokens could not be sent to the rest."
    )
    return None


def others_beside(count: int, layout: ExpertLayout) -> list[int]:
    """The nearest other numbers of experts that can go: fewer and more."""
    nearest = (count - layout.groups, count + layout.groups)
    return [one for one in nearest if one > 0 and _is_routable(one, layout)]


def _is_routable(count: int, layout: ExpertLayout) -> bool:
    try:
        require_routable(count, layout, called="`size`")
    except TargetError:
        return False
    return True


def _parameters(shell: CheckpointDecoder, cut: ExpertCut) -> int:
    """How many parameters a cut takes away."""
    tensors = shell.checkpoint.tensors
    gone = sum(tensors[name].numel for name in cut.removed)
    for name, (dimension, kept) in cut.entries.items():
        tensor = tensors[name]
        gone += tensor.numel - tensor.numel // tensor.shape[dimension] * len(kept)
    return gone


def held_back_loss(workspace: Workspace, checkpoint: Path, tokens: Tensor) -> float:
    """Mean loss of a checkpoint, in nats/token, on the calibration windows that healing solves nothing on.

    Args:
        workspace: the dense model's.
        checkpoint: made of it.
        tokens: all calibration windows (num_windows, seq_len) int64.
    """
    held = tokens[len(tokens) - held_back(len(tokens)) :]
    decoder = workspace.beside(str(checkpoint)).open_decoder()
    batch = workspace.compute.batch_tokens
    return fmean(streamed_window_losses(decoder, held, batch_tokens=batch, chunk_windows=len(held)))
