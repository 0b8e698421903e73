"""The checkpoint without the removed experts: cut and other tensors under their new names, config, record and card."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from llmprune.artifacts.checkpoints.block_numbers import kept_blocks, split_at_number
from llmprune.artifacts.checkpoints.checkpoint import Checkpoint
from llmprune.artifacts.checkpoints.copying import DEFAULT_SHARD_BYTES, CopyReport, copy_tensors
from llmprune.artifacts.files.disk_space import explain_full_disk
from llmprune.artifacts.files.temporary import scratch_directory
from llmprune.artifacts.records.command_line import unless_usual
from llmprune.artifacts.records.pruning import ExpertRemoval, PruningRecord
from llmprune.models.architecture import empty_model
from llmprune.models.config import CONFIG_NAME, load_config, made_of, read_config, write_config
from llmprune.models.expert_surgery import ExpertCut, config_with_experts, cut_experts, kept_entries
from llmprune.stages.common.command_line import model_argument, recorded_command
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.expert_removal.settings import ExpertSettings
from llmprune.stages.output.carried_files import carry_files
from llmprune.stages.output.finish import finish_checkpoint
from llmprune.stages.output.place import new_checkpoint
from llmprune.stages.output.record import new_record

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def write_checkpoint(
    workspace: Workspace, settings: ExpertSettings, removal: ExpertRemoval, out: Path
) -> PruningRecord:
    """Write the checkpoint, all of it or nothing, and give its record.

    Tensors with an entry for each expert are cut in files beside it first, which takes the room of these once more.

    Args:
        workspace: the source model.
        settings: how to write.
        removal: the experts to leave out.
        out: the new checkpoint.

    Raises:
        ModelError: a tensor does not follow the number of experts.
        OutputExistsError: ``out`` holds something else.
        CheckpointError: the source's files are not whole, or a kept weight is NaN or infinite.
        VerificationError: the written checkpoint does not compute what it should.
        LlmpruneError: the disk is full.
    """
    cut = plan_cut(workspace, removal)
    with new_checkpoint(out, force=settings.force) as partial:
        copied = _write_weights(workspace, cut, partial, settings.max_shard_bytes)
        raw, config = _configs(workspace)
        written = write_config(partial, config_with_experts(raw, config, before=removal.before, left=removal.left))
        copied = copied.beside({CONFIG_NAME: written, **carry_files(workspace, partial)})
        record = new_record(workspace, copied, experts=removal, command=_command(workspace, settings, removal, out))
        return finish_checkpoint(_precise(workspace), partial, record, verify=settings.verify, experts=removal.removed)


def _precise(workspace: Workspace) -> Workspace:
    """The workspace, computing in float32 at least.

    In a narrow dtype two experts often tie, and a router with fewer columns may choose the other one of them.
    """
    if workspace.dtype.itemsize >= torch.float32.itemsize:
        return workspace
    return replace(workspace, compute=replace(workspace.compute, dtype=torch.float32))


def plan_cut(workspace: Workspace, removal: ExpertRemoval) -> ExpertCut:
    """What becomes of the tensors; nothing is read but their names and shapes.

    Raises:
        ModelError: the model cannot be made with fewer experts, or a tensor does not follow their number.
    """
    shell = workspace.open_shell()
    raw, config = _configs(workspace)
    smaller = made_of(config_with_experts(raw, config, before=removal.before, left=removal.left), type(config))
    return cut_experts(
        shell.model,
        partial(empty_model, smaller, dtype=workspace.dtype, trust_remote_code=workspace.trust_remote_code),
        shell.tensors_of,
        {block: kept_blocks(removal.before, gone) for block, gone in removal.removed.items()},
        before=removal.before,
    )


def _configs(workspace: Workspace) -> tuple[dict[str, Any], PreTrainedConfig]:
    """The config as it is on disk, and as it is loaded."""
    config = load_config(workspace.directory, trust_remote_code=workspace.trust_remote_code)
    return read_config(workspace.directory), config


def _command(workspace: Workspace, settings: ExpertSettings, removal: ExpertRemoval, out: Path) -> str:
    """The command that makes the checkpoint again. It names the experts, so that they need not be measured."""
    return recorded_command(
        workspace,
        "remove-experts",
        model_argument(workspace),
        experts=[f"{block}:{','.join(map(str, gone))}" for block, gone in removal.removed.items()],
        out=out,
        max_shard_size=unless_usual(settings.max_shard_bytes, DEFAULT_SHARD_BYTES),
        no_verify=not settings.verify,
    )


def _write_weights(workspace: Workspace, cut: ExpertCut, partial: Path, max_shard_bytes: int) -> CopyReport:
    """Stream the tensors that stay into ``partial``."""
    source, shell = workspace.open_checkpoint(), workspace.open_shell()
    if behind := len(shell.names.behind):
        workspace.progress.say(
            f"The weights hold {behind} more than the model's {len(shell.blocks)} blocks, which transformers does not "
            "use (for predicting further tokens, perhaps); their experts stay as they are."
        )
    with scratch_directory(workspace.run.path) as folder, explain_full_disk(folder):
        replaced = source.replaced(_cut_files(source, cut, folder))
        renames = {name: cut.renames.get(name, name) for name in source.tensors if name not in cut.removed}
        total = sum(replaced.tensors[name].nbytes for name in renames)
        with workspace.progress.task("Writing", total) as advance:
            return copy_tensors(
                replaced, renames, partial, max_shard_bytes=max_shard_bytes, progress=advance, check_finite=shell.used
            )


def _cut_files(source: Checkpoint, cut: ExpertCut, folder: Path) -> list[Path]:
    """Files with the tensors that are cut, one for each block."""
    blocks: dict[int, list[str]] = defaultdict(list)
    for name in cut.entries:
        parts = split_at_number(name)
        blocks[parts[1] if parts is not None else 0].append(name)
    files = []
    for block, names in blocks.items():
        files.append(folder / f"{block}.safetensors")
        stored = source.load(names)
        save_file({name: kept_entries(stored[name], *cut.entries[name]) for name in names}, files[-1])
    return files
