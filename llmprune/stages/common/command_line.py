"""The command that makes a stage's output again, as its record, the model card and the report show it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmprune.artifacts.records.command_line import Value, spell_command, unless_usual
from llmprune.models.compute import choose_compute, dtype_name

if TYPE_CHECKING:
    from llmprune.stages.common.workspace import Workspace


def recorded_command(
    workspace: Workspace, name: str, *arguments: str | Path, **options: Value | Sequence[str] | Path
) -> str:
    """The command of a stage, with what every command takes: ``--run``, and where and in what to compute.

    It is to be typed in ``workspace.folder``. Records are published, so a command contains no path of this machine:
    what lies in that folder is named from there, anything else by its own name alone.

    Args:
        workspace: run directory and model.
        name: of the command.
        arguments: MODEL and what comes behind it, in order; a path is spelled as above.
        options: what else was decided, see ``spell_command``; a path is spelled as above.
    """
    compute = workspace.compute
    everything = {
        "run": workspace.run.path,
        **options,
        "device": unless_usual(str(compute.device), str(choose_compute().device)),
        "dtype": dtype_name(compute.dtype) if compute.dtype is not None else None,
        "trust_remote_code": workspace.trust_remote_code,
    }
    words = [spell_path(word, workspace.folder) if isinstance(word, Path) else word for word in arguments]
    typed = {
        option: spell_path(value, workspace.folder) if isinstance(value, Path) else value
        for option, value in everything.items()
    }
    return spell_command(name, *words, **typed)


def model_argument(workspace: Workspace) -> str:
    """The workspace's model as MODEL: a Hub id as it was typed, or a path.

    A local model that lies outside the folder is called by the name that artifacts give it. Its run knows that name.
    """
    path, folder = Path(workspace.record.model), workspace.folder
    inside = path.is_absolute() and path.is_relative_to(folder) and not _holds_home(folder)
    return spell_path(path, folder) if inside else workspace.model.name


def command_folder(run: Path) -> Path:
    """The folder in which recorded commands are to be typed: the current one if the run lies in it, else the run's."""
    here, run = Path.cwd(), run.absolute()
    return here if run.is_relative_to(here) and not _holds_home(here) else run.parent


def spell_path(path: Path, folder: Path) -> str:
    """A path as it is typed in ``folder``: from there where it lies in it, else its own name alone."""
    path = path.absolute()
    if path.is_relative_to(folder) and not _holds_home(folder):
        return str(path.relative_to(folder))
    return path.resolve().name


def _holds_home(folder: Path) -> bool:
    """Whether a path from ``folder`` on, for example from ``/``, could contain the name of the user's home folder."""
    return folder in Path(os.path.expanduser("~")).parents  # noqa: PTH111 - without a home, no exception
