"""``llmprune push``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmprune.cli.console import Console
from llmprune.cli.options.common import DEFAULT_RUN, DeviceOpt, DtypeOpt, JsonOpt, QuietOpt, RemoteCodeOpt, RunOpt

if TYPE_CHECKING:
    from llmprune.models.compute import Compute
    from llmprune.publishing.contents import LocalFile
    from llmprune.stages.publishing import PushReport, PushSettings

EXAMPLE = "Example: llmprune push llmprune-run/NAME owner/name --private --include-artifacts"

PushToHubOpt = Annotated[
    str | None,
    typer.Option(metavar="OWNER/NAME", help="Publish the result on the Hub; see llmprune push.", show_default=False),
]
PrivateOpt = Annotated[bool, typer.Option("--private", help="Make the Hub repository a private one.")]


def push(
    checkpoint: Annotated[Path, typer.Argument(help="The directory of a checkpoint that llmprune wrote.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository; made if need be.")],
    private: PrivateOpt = False,
    revision: Annotated[
        str | None, typer.Option(help="A branch, made if need be. Default: main.", show_default=False)
    ] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Propose it in a pull request instead.")] = False,
    tag: Annotated[str | None, typer.Option(help="Call the commit so: v1.", show_default=False)] = None,
    include_artifacts: Annotated[
        bool,
        typer.Option("--include-artifacts", help="Also importance file, benchmarks, report, mask of pruned weights."),
    ] = False,
    base_model: Annotated[
        str | None,
        typer.Option(help="The base model's Hub id, if it was pruned from a local copy.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Verify and list, without the Hub; send nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace all that the repository holds.")] = False,
    run: RunOpt = DEFAULT_RUN,
    device: DeviceOpt = "auto",
    dtype: DtypeOpt = "auto",
    trust_remote_code: RemoteCodeOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Verify a pruned checkpoint and publish it on the Hugging Face Hub, with a model card."""
    from llmprune.artifacts.run import RunDirectory
    from llmprune.models.compute import choose_compute
    from llmprune.publishing.destination import Destination
    from llmprune.stages.publishing import PushSettings
    from llmprune.stages.publishing import push as run_stage

    console = Console(as_json=as_json, quiet=quiet)
    settings = PushSettings(
        Destination(repository, private, revision, create_pr, tag, force),
        include_artifacts=include_artifacts,
        base_model=base_model,
        dry_run=dry_run,
    )
    report = run_stage(
        checkpoint,
        settings,
        run=RunDirectory(run),
        compute=choose_compute(device, dtype),
        progress=console,
        trust_remote_code=trust_remote_code,
        on_listing=listing_teller(console),
    )
    console.result(described(report), shown=lambda console: show_push(console, report))


def push_settings(repository: str | None, *, private: bool) -> PushSettings | None:
    """What ``--push-to-hub`` asks for, seen to be possible before anything that takes long; None: nothing."""
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


def push_result(
    console: Console,
    settings: PushSettings | None,
    directory: Path,
    *,
    run: Path,
    compute: Compute,
    trust_remote_code: bool,
) -> PushReport | None:
    """Publish what a command has just written, if that was asked for."""
    from llmprune.artifacts.run import RunDirectory
    from llmprune.stages.publishing import push as run_stage

    if settings is None:
        return None
    console.say(f"Written to {directory}; now to {settings.destination.repo_id} on the Hub.")
    return run_stage(
        directory,
        settings,
        run=RunDirectory(run),
        compute=compute,
        progress=console,
        trust_remote_code=trust_remote_code,
        on_listing=listing_teller(console),
    )


def listing_teller(console: Console) -> Callable[[Sequence[LocalFile]], None]:
    """What says what will be sent, before it is."""
    from llmprune.artifacts.files.sizes import format_size

    def tell(files: Sequence[LocalFile]) -> None:
        width = max(len(file.path) for file in files)
        for file in files:
            console.say(f"  {file.path:{width}}  {format_size(file.size):>10}")
        console.say(f"{len(files)} files, {format_size(sum(file.size for file in files))}.")

    return tell


def described(report: PushReport | None) -> dict[str, Any] | None:
    """The result for ``--json``; None where nothing was to be published."""
    if report is None:
        return None
    sent = report.sent
    return {
        "directory": str(report.directory),
        "repository": report.repo_id,
        "sent": sent is not None,
        "url": sent.url if sent else None,
        "commit": sent.commit if sent else None,
        "changed": list(sent.changed) if sent else [],
        "files": [{"path": file.path, "bytes": file.size, "sha256": file.hashes[0]} for file in report.files],
    }


def show_push(console: Console, report: PushReport | None) -> None:
    """The result for people, if something was published."""
    if report is None:
        return
    sent = report.sent
    if sent is None:
        console.line(f"A dry run: nothing was sent to {report.repo_id}.")
        return
    if sent.changed:
        console.line(f"Sent {len(sent.changed)} changed files to {report.repo_id} in commit {sent.commit[:12]}.")
    else:
        console.line(f"{report.repo_id} holds all of it already (commit {sent.commit[:12]}): nothing was sent.")
    console.line(f"{sent.compared} files compared: their hashes there are those here.")
    console.line(sent.url)
