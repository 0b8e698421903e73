"""The checkpoint without the removed blocks: kept tensors streamed under their new names, config, record and card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmprune.artifacts.checkpoints.block_numbers import kept_blocks
from llmprune.artifacts.checkpoints.checkpoint import Checkpoint
from llmprune.artifacts.checkpoints.copying import DEFAULT_SHARD_BYTES, CopyReport, copy_tensors
from llmprune.artifacts.records.command_line import unless_usual
from llmprune.artifacts.records.pruning import BlockRemoval, PruningRecord
from llmprune.choices import Heal
from llmprune.models.config import CONFIG_NAME, load_config, read_config, write_config
from llmprune.models.surgery import cut_config, renamed_tensors, tied_copies
from llmprune.stages.block_removal.settings import RemovalSettings
from llmprune.stages.common.command_line import model_argument, recorded_command
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.healing import HealedWeights
from llmprune.stages.output.carried_files import carry_files
from llmprune.stages.output.finish import finish_checkpoint
from llmprune.stages.output.place import new_checkpoint
from llmprune.stages.output.record import new_record


def write_checkpoint(
    workspace: Workspace,
    settings: RemovalSettings,
    source: Checkpoint,
    removal: BlockRemoval,
    healed: HealedWeights | None,
    out: Path,
    *,
    repeatable: bool,
) -> PruningRecord:
    """Write the checkpoint, all of it or nothing, and give its record.

    Args:
        workspace: the source model.
        settings: how to write.
        source: the source's files.
        removal: the blocks to leave out.
        healed: tensors that were solved anew; None: none.
        out: the new checkpoint.
        repeatable: whether a command can make it again.

    Raises:
        OutputExistsError: ``out`` holds something else.
        CheckpointError: the source's files are not whole, or a kept weight is NaN or infinite.
        VerificationError: the written checkpoint does not compute what the bypassed source does.
        LlmpruneError: the disk is full.
    """
    kept = kept_blocks(workspace.model.num_blocks, removal.removed)
    files = healed.files if healed is not None else ()
    with new_checkpoint(out, force=settings.force) as partial:
        copied = _write_files(workspace, source.overlaid(files), kept, partial, settings.max_shard_bytes)
        healing = healed.record if healed is not None else None
        command = _command(workspace, settings, removal, out) if repeatable else None
        record = new_record(workspace, copied, removal=removal, healing=healing, command=command)
        return finish_checkpoint(
            workspace, partial, record, verify=settings.verify, removed=removal.removed, weights=files
        )


def _command(workspace: Workspace, settings: RemovalSettings, removal: BlockRemoval, out: Path) -> str:
    """The command that makes the checkpoint again. It names the blocks, so that they need not be searched for."""
    return recorded_command(
        workspace,
        "remove-blocks",
        model_argument(workspace),
        blocks=",".join(map(str, removal.removed)),
        heal=unless_usual(settings.heal, Heal.NONE),
        out=out,
        max_shard_size=unless_usual(settings.max_shard_bytes, DEFAULT_SHARD_BYTES),
        no_verify=not settings.verify,
    )


def _write_files(
    workspace: Workspace, source: Checkpoint, kept: Sequence[int], partial: Path, max_shard_bytes: int
) -> CopyReport:
    """Stream the kept tensors into ``partial``, and write the config and the files that go with them."""
    config = load_config(workspace.directory, trust_remote_code=workspace.trust_remote_code)
    shell = workspace.open_shell()
    if behind := len(shell.names.behind):
        workspace.progress.say(
            f"The weights hold {behind} more than the model's {len(shell.blocks)} blocks, which transformers does not "
            "use (for predicting further tokens, perhaps); what is behind the last one is carried along, renumbered."
        )
    renames = renamed_tensors(shell.names, kept)
    for copy in tied_copies(shell):
        renames.pop(copy, None)
    config_file = write_config(partial, cut_config(read_config(workspace.directory), config, kept, behind=behind))
    total = sum(source.tensors[name].nbytes for name in renames)
    with workspace.progress.task("Writing", total) as advance:
        copied = copy_tensors(
            source, renames, partial, max_shard_bytes=max_shard_bytes, progress=advance, check_finite=shell.used
        )
    return copied.beside({CONFIG_NAME: config_file, **carry_files(workspace, partial)})
