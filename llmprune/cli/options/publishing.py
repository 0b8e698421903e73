"""Options about publishing on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmprune.cli.options.common import OUTPUT

if TYPE_CHECKING:
    from llmprune.stages.publishing import PushSettings

CheckpointArg = Annotated[
    Path, typer.Argument(metavar="CHECKPOINT", help="The directory of a checkpoint that llmprune wrote.")
]
RepositoryArg = Annotated[
    str, typer.Argument(metavar="OWNER/NAME", help="The repository on the Hub. It is made if it does not exist.")
]
RevisionOpt = Annotated[
    str | None,
    typer.Option(metavar="BRANCH", help="The branch. It is made if it does not exist.", show_default="main"),
]
CreatePrOpt = Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of committing.")]
TagOpt = Annotated[str | None, typer.Option(metavar="NAME", help="Tag the commit: v1.", show_default=False)]
ArtifactsOpt = Annotated[
    bool,
    typer.Option(
        "--include-artifacts", help="Send also the block ranking, benchmarks, report and mask of the pruned weights."
    ),
]
BaseModelOpt = Annotated[
    str | None,
    typer.Option(
        metavar="OWNER/NAME",
        help="The base model's Hub id, for the model card.",
        show_default="known where the model came from the Hub",
    ),
]
DryRunOpt = Annotated[bool, typer.Option("--dry-run", help="Verify and list, without the Hub. Send nothing.")]
ReplaceOpt = Annotated[bool, typer.Option("--force", help="Replace everything that the repository holds.")]
PrivateOpt = Annotated[bool, typer.Option("--private", help="Make the Hub repository private.")]

# For commands that may publish what they have just written.
PushToHubOpt = Annotated[
    str | None,
    typer.Option(
        metavar="OWNER/NAME",
        help="Publish the result on the Hub, as llmprune push does.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
PushPrivateOpt = Annotated[
    bool, typer.Option("--private", help="With --push-to-hub: make the Hub repository private.", rich_help_panel=OUTPUT)
]


def read_push(repository: str | None, *, private: bool) -> PushSettings | None:
    """What ``--push-to-hub`` asks for, seen to be possible before anything that takes long; None: nothing.

    Raises:
        TargetError: ``--private`` without it, or no name that the Hub allows.
        AccessError: nobody is logged in, or may not look there.
        OutputExistsError: the repository is public where a private one is wanted.
        HubError: the Hub cannot be reached.
    """
    from llmprune.errors import TargetError
    from llmprune.publishing.destination import Destination
    from llmprune.stages.publishing import PushSettings, require_pushable

    if repository is None:
        if private:
            raise TargetError("--private is for --push-to-hub OWNER/NAME; type both or none.")
        return None
    settings = PushSettings(Destination(repository, private))
    require_pushable(settings)
    return settings
