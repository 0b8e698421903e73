"""What a pruned checkpoint takes over from its source beside config and weights."""

from __future__ import annotations

from pathlib import Path

from llmprune.artifacts.checkpoints.checkpoint import INDEX_NAME
from llmprune.artifacts.files.digests import FileDigest, copy_file
from llmprune.artifacts.records.pruning import RECORD_NAME
from llmprune.models.belonging import beside_weights, require_own
from llmprune.models.config import CONFIG_NAME
from llmprune.publishing.contents import CARD_NAME
from llmprune.spelling import listed
from llmprune.stages.common.workspace import Workspace

_WRITTEN_ANEW = {CONFIG_NAME, INDEX_NAME, RECORD_NAME, CARD_NAME}


def require_carriable(workspace: Workspace) -> None:
    """See, before anything that takes long, that what a new checkpoint takes over is the source model's own.

    Raises:
        ModelError: a file is a link that leads out of the model's folder.
    """
    source = workspace.directory
    for path in (source / CONFIG_NAME, *(source / path for path in beside_weights(source))):
        require_own(source, path)


def carry_files(workspace: Workspace, output: Path) -> dict[str, FileDigest]:
    """Copy tokenizer, generation config, chat templates, processors, remote code and licence of the source model.

    Anything else (other weights, training state, caches) stays behind, and that is said.

    Returns:
        What was written, by path in ``output``.

    Raises:
        ModelError: a file is a link that leads out of the model's folder.
    """
    source = workspace.directory
    require_carriable(workspace)
    carried = beside_weights(source)
    written: dict[str, FileDigest] = {}
    for path in carried:
        place = output / path
        place.parent.mkdir(parents=True, exist_ok=True)
        written[str(path)] = copy_file(source / path, place)
    known = {path.parts[0] for path in carried} | {shard.name for shard in workspace.open_checkpoint().shards}
    left = [path.name for path in sorted(source.iterdir()) if path.name not in known | _WRITTEN_ANEW]
    if left := [name for name in left if not name.startswith((".", "__"))]:
        workspace.progress.say(f"Left behind in {source.name}: {listed(left, 5)}.")
    return written
