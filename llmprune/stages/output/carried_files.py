"""What a pruned checkpoint takes over from its source beside config and weights."""

from __future__ import annotations

import shutil
from pathlib import Path

from llmprune.artifacts.checkpoints.checkpoint import INDEX_NAME
from llmprune.artifacts.records.pruning import RECORD_NAME
from llmprune.models.belonging import beside_weights
from llmprune.publishing.contents import CARD_NAME
from llmprune.stages.common.workspace import Workspace

_WRITTEN_ANEW = {"config.json", INDEX_NAME, RECORD_NAME, CARD_NAME}


def carry_files(workspace: Workspace, output: Path) -> None:
    """Copy tokenizer, generation config, chat templates, processors, remote code and licence of the source model.

    Anything else (other weights, training state, caches) stays behind, and that is said.
    """
    source = workspace.directory
    carried = beside_weights(source)
    for path in carried:
        place = output / path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, place)
    known = {path.parts[0] for path in carried} | {shard.name for shard in workspace.open_checkpoint().shards}
    left = [path.name for path in sorted(source.iterdir()) if path.name not in known | _WRITTEN_ANEW]
    if left := [name for name in left if not name.startswith((".", "__"))]:
        shown = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if left[5:] else "")
        workspace.progress.say(f"Left behind in {source.name}: {shown}.")
