"""How publishing is shown: what will be sent, what was, and the same as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from llmprune.cli.console import Console

if TYPE_CHECKING:
    from llmprune.publishing.contents import LocalFile
    from llmprune.stages.publishing import PushReport


def listing_teller(console: Console) -> Callable[[Sequence[LocalFile]], None]:
    """Says what will be sent, before it is."""
    from llmprune.artifacts.files.sizes import format_size

    def tell(files: Sequence[LocalFile]) -> None:
        width = max(len(file.path) for file in files)
        for file in files:
            console.say(f"  {file.path:{width}}  {format_size(file.size):>10}")
        console.say(f"{len(files)} files, {format_size(sum(file.size for file in files))}.")

    return tell


def describe_push(report: PushReport | None) -> dict[str, Any] | None:
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
