"""Files of Hub data sets, from the Hub or its cache on this machine.

By huggingface_hub and not by `datasets`, which asks in several requests of up to 100 s each, does not tell a gated
repository from a missing one, and reads nothing that is in the Hub's cache alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

from llmprune.errors import CorpusError, HubUnreachableError
from llmprune.hub.failures import Failure, Problem, read_failure

_SECONDS = 8.0  # to answer a first request; a Hub slower than this is taken for unreachable


@dataclass(frozen=True)
class Remote:
    """A data set's branch as the first request found it, or else as the Hub's cache on this machine has it.

    Attributes:
        repo: ``owner/name``.
        revision: the branch.
        commit: where it is; None where neither has it.
        files: their paths, of the Hub's if they were asked for.
        failure: why the Hub did not answer; None if it did.
        folder: the cache's, where the Hub did not answer and the cache has something.
    """

    repo: str
    revision: str
    commit: str | None
    files: tuple[str, ...]
    failure: Failure | None = None
    folder: Path | None = None


def probe(repo: str, revision: str, *, with_files: bool = False) -> Remote | None:
    """Ask the Hub for a revision once, within seconds; None if the repository has no such revision.

    Raises:
        CorpusError: no such repository, or gated. A Hub that does not answer is no error: the cache may do.
    """
    wanted: Any = ["sha", "siblings"] if with_files else ["sha"]  # C4 has 70,000 files
    try:
        found = HfApi().dataset_info(repo, revision=revision, timeout=_SECONDS, expand=wanted)
    except Exception as error:  # transport errors too: their type changes with the client's HTTP library
        failure = read_failure(error)
        if failure.problem is Problem.REVISION:
            return None
        _refuse(repo, failure, error)
        return cached(repo, revision, failure)
    return Remote(repo, revision, found.sha, tuple(file.rfilename for file in found.siblings or ()))


def fetch(remote: Remote, file: str) -> Path:
    """Path of a file in the Hub's cache, downloaded if need be.

    Raises:
        CorpusError: no such file, or gated.
        HubUnreachableError: not in the cache, and the Hub does not answer.
    """
    try:
        # The branch's name, not its commit: only then does the cache know the file by its branch offline.
        path = hf_hub_download(
            remote.repo,
            file,
            repo_type="dataset",
            revision=remote.revision,
            etag_timeout=_SECONDS,
            local_files_only=remote.failure is not None,
        )
    except Exception as error:  # as in probe
        failure = remote.failure or read_failure(error)
        if failure.problem is Problem.FILE:
            raise CorpusError(f"The Hub data set {remote.repo} has no file {file}; give another `source`.") from error
        _refuse(remote.repo, failure, error)
        raise HubUnreachableError(remote.repo, failure.why) from error
    return Path(path)


def cached(repo: str, revision: str, failure: Failure) -> Remote:
    """What the Hub's cache on this machine has of a branch, the Hub having failed to answer."""
    try:
        folder = Path(snapshot_download(repo, repo_type="dataset", revision=revision, local_files_only=True))
    except IncompleteSnapshotError as error:
        folder = Path(error.snapshot_path)
    except LocalEntryNotFoundError:
        return Remote(repo, revision, None, (), failure)
    files = tuple(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return Remote(repo, revision, folder.name, files, failure, folder)


def commit_of(path: Path) -> str:
    """Commit that a cached file belongs to: the cache's documented layout is .../snapshots/COMMIT/FILE."""
    return path.parts[path.parts.index("snapshots") + 1]


def _refuse(repo: str, failure: Failure, error: Exception) -> None:
    """Raise where no cache would help."""
    match failure.problem:
        case Problem.NAME:
            raise CorpusError(f"'{repo}' is no name that the Hub allows; expected owner/name.") from error
        case Problem.GATED:
            raise CorpusError(
                f"The Hub data set {repo} is gated: ask for access on its page, type `hf auth login`, and try again."
            ) from error
        case Problem.REPOSITORY:
            raise CorpusError(
                f"There is no Hub data set {repo}, or it is private. Check the name, or type `hf auth login`."
            ) from error
