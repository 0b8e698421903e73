"""Where a new checkpoint may be written, so that nothing of the user's is ever replaced by mistake."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmprune.artifacts.checkpoints.checkpoint import INDEX_NAME
from llmprune.artifacts.files.atomic import atomic_directory, require_replaceable
from llmprune.artifacts.files.ownership import Owned, remove_own, require_own
from llmprune.artifacts.files.paths import require_room_for_names
from llmprune.artifacts.files.temporary import remove_leftovers
from llmprune.artifacts.records.provenance import recorded_as
from llmprune.artifacts.records.pruning import RECORD_NAME, PruningRecord
from llmprune.errors import OutputExistsError
from llmprune.models.belonging import beside_weights
from llmprune.publishing.contents import CARD_NAME
from llmprune.spelling import listed
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.output.carried_files import require_carriable

_SHARD = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_NAMING = ("tokenizer_config.json", "config.json")  # they may name others
_ELSEWHERE = "give another directory with `out`."


def check_output(workspace: Workspace, out: Path, *, force: bool) -> None:
    """Check that ``out`` is not the place of the source model or of the run, and holds nothing but a checkpoint.

    What a killed command left in its place is put right first. A checkpoint that llmprune wrote there is the caller's
    to compare; with ``force`` it may go, if nothing of anybody else lies in it.

    Raises:
        ModelError: a file that the new checkpoint would take over is a link out of the source model's folder.
        OutputExistsError: it is, or it holds something else.
        UserError: no directory could be put there.
        OSError: its path, or that of a file in it, would be too long.
    """
    require_carriable(workspace)
    require_room_for_names(out)
    _keep_apart(workspace, out)
    remove_leftovers(out.resolve().parent, of=out.resolve())
    require_replaceable(out)
    names = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if not names:
        return
    if RECORD_NAME not in names:
        raise OutputExistsError(
            f"{out} holds {listed(names)} and is no checkpoint of llmprune's: not even `force=True` replaces it; "
            f"{_ELSEWHERE}"
        )
    if force:
        require_own(out, checkpoint_files(out), instead=f"so not even `force=True` replaces it; {_ELSEWHERE}")


def checkpoint_files(directory: Path) -> Owned:
    """Which files of a checkpoint are llmprune's: those that its record names.

    Where it names none, since it is an older one or damaged, they are what llmprune writes and carries along.
    """
    if not (directory / RECORD_NAME).is_file():
        return lambda _: False
    written = (recorded_as(directory / RECORD_NAME, PruningRecord.KIND) or {}).get("written")
    named = written.get("files") if isinstance(written, dict) else None
    names = {RECORD_NAME, CARD_NAME, *(named if isinstance(named, dict) else _usual_files(directory))}
    return lambda path: str(path) in names


def remove_checkpoint(directory: Path) -> list[str]:
    """Delete a checkpoint of llmprune's; returns what stays, since llmprune did not write it."""
    return remove_own(directory, checkpoint_files(directory), last=(*_NAMING, RECORD_NAME))


def _usual_files(directory: Path) -> Iterator[str]:
    yield from ("config.json", INDEX_NAME)
    yield from (path.name for path in directory.iterdir() if _SHARD.fullmatch(path.name))
    yield from map(str, beside_weights(directory))


@contextmanager
def new_checkpoint(out: Path, *, force: bool) -> Iterator[Path]:
    """An empty directory that becomes the checkpoint ``out``, all of it or nothing, see ``atomic_directory``.

    With ``force`` an earlier checkpoint of llmprune's gives way to it.

    Raises:
        OutputExistsError: ``out`` holds something else.
        LlmpruneError: the disk is full.
    """
    with atomic_directory(out, overwrite=force, owned=checkpoint_files) as partial:
        yield partial


def _keep_apart(workspace: Workspace, out: Path) -> None:
    output, run = out.resolve(), workspace.run.path.resolve()
    typed = Path(workspace.record.model)  # where this is converted, the checkpoint lies elsewhere
    sources = [path.resolve() for path in ([typed] if typed.is_absolute() else []) + [workspace.directory]]
    for source in sources:
        if source.is_relative_to(output):
            raise OutputExistsError(f"{out} holds the model that is to be pruned ({source}); {_ELSEWHERE}")
    if run.is_relative_to(output):
        raise OutputExistsError(f"{out} holds the run directory {workspace.run.path}; {_ELSEWHERE}")
    own = (workspace.run.calibration, workspace.run.partial_calibration, workspace.run.bench, workspace.run.dense)
    for place in (path.resolve() for path in own):
        if output.is_relative_to(place):
            raise OutputExistsError(f"{out} lies where the run keeps its {place.name}; {_ELSEWHERE}")
    for source in sources:
        if output.is_relative_to(source) and not output.is_relative_to(run):
            raise OutputExistsError(f"{out} lies inside the model that is to be pruned ({source}); {_ELSEWHERE}")
