"""Where a new checkpoint may be written, so that nothing of the user's is ever replaced by mistake."""

from __future__ import annotations

from pathlib import Path

from llmprune.artifacts.files.atomic import require_replaceable
from llmprune.artifacts.files.paths import require_room_for_names
from llmprune.artifacts.records.pruning import RECORD_NAME
from llmprune.errors import OutputExistsError
from llmprune.stages.common.workspace import Workspace

_ELSEWHERE = "give another directory with `out`."


def check_output(workspace: Workspace, out: Path, *, force: bool) -> None:
    """Check that ``out`` is not the place of the source model or of the run, and holds nothing but a checkpoint.

    A checkpoint that llmprune wrote there is the caller's to compare. Any other needs ``force``.

    Raises:
        OutputExistsError: it is, or it holds something else.
        UserError: no directory could be put there.
        OSError: its path, or that of a file in it, would be too long.
    """
    require_room_for_names(out)
    _keep_apart(workspace, out)
    require_replaceable(out)
    names = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if not names:
        return
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    if {"config.json", RECORD_NAME}.isdisjoint(names):
        raise OutputExistsError(
            f"{out} holds {shown} and is no checkpoint, so not even `force=True` replaces it; {_ELSEWHERE}"
        )
    if not force and RECORD_NAME not in names:
        raise OutputExistsError(f"{out} already holds {shown}; {_ELSEWHERE[:-1]}, or replace it with `force=True`.")


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
