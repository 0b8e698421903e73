"""Files of Hub data sets, from the Hub or its cache on this machine: quickly, quietly, with clear errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmprune.errors import CorpusError

OFFLINE = "HF_HUB_OFFLINE is set"
OFFLINE_HELP = "Without the Hub, go on with --source python-docs or a local file (--source FILE.txt)."
_SECONDS = 8.0  # to answer a first request; a Hub slower than this is taken for unreachable


class HubUnreachableError(CorpusError):
    """Neither the Hub nor its cache on this machine can give the files."""

    def __init__(self, repo: str, reason: str) -> None:
        super().__init__(f"{repo} is not in the Hub's cache here, and {reason}. {OFFLINE_HELP}")
        self.reason = reason


@dataclass(frozen=True)
class Remote:
    """A data set's revision as the first request found it.

    `files` are the repository's paths where they were asked for (in the cache, what it holds of them);
    `reason` says why the Hub did not answer, None if it did.
    """

    repo: str
    revision: str
    files: tuple[str, ...] = ()
    reason: str | None = None


def probe(repo: str, revision: str, *, with_files: bool = False) -> Remote | None:
    """Ask the Hub for a revision once, within seconds; None if the repository has no such revision.

    Raises:
        CorpusError: no such repository, or gated. A Hub that does not answer is no error: the cache may do.
    """
    from huggingface_hub import HfApi, errors, get_token  # noqa: PLC0415 - 0.3 s that a local file need not pay

    wanted: Any = ["sha", "siblings"] if with_files else ["sha"]
    try:
        found = HfApi().dataset_info(repo, revision=revision, timeout=_SECONDS, expand=wanted)
    except errors.HFValidationError as error:
        raise CorpusError(f"'{repo}' is no name that the Hub allows; expected owner/name.") from error
    except errors.GatedRepoError as error:
        raise _gated(repo) from error
    except errors.RevisionNotFoundError:
        return None
    except errors.RepositoryNotFoundError as error:
        raise _absent(repo) from error
    except Exception as error:  # transport errors: their type changes with the client's HTTP library
        # What the Hub hides is a 401, which the client takes for "not found" at an address of https only.
        if _status(error) == 401 and not get_token():
            raise _absent(repo) from error
        return Remote(repo, revision, _cached_files(repo, revision) if with_files else (), _why(error))
    return Remote(repo, revision, tuple(file.rfilename for file in found.siblings or ()))


def fetch(remote: Remote, file: str) -> Path:
    """Path of a file in the Hub's cache, downloaded if need be.

    Raises:
        CorpusError: no such file, or gated.
        HubUnreachableError: not in the cache, and the Hub does not answer.
    """
    from huggingface_hub import errors, hf_hub_download  # noqa: PLC0415 - as in probe

    try:
        # The branch's name, not its commit: only then does the cache know the file by its branch offline.
        path = hf_hub_download(
            remote.repo,
            file,
            repo_type="dataset",
            revision=remote.revision,
            etag_timeout=_SECONDS,
            local_files_only=remote.reason is not None,
        )
    except errors.RemoteEntryNotFoundError as error:
        raise CorpusError(f"The Hub data set {remote.repo} has no file {file}. {OFFLINE_HELP}") from error
    except errors.GatedRepoError as error:
        raise _gated(remote.repo) from error
    except Exception as error:  # as in probe
        raise HubUnreachableError(remote.repo, remote.reason or _why(error)) from error
    return Path(path)


def commit_of(path: Path) -> str:
    """Commit that a cached file belongs to: the cache's documented layout is .../snapshots/COMMIT/FILE."""
    return path.parts[path.parts.index("snapshots") + 1]


def _absent(repo: str) -> CorpusError:
    return CorpusError(f"There is no Hub data set {repo}, or it is private. Check the name, or run `hf auth login`.")


def _gated(repo: str) -> CorpusError:
    return CorpusError(
        f"The Hub data set {repo} is gated: ask for access on its page, run `hf auth login`, and try again."
    )


def _why(error: Exception) -> str:
    from huggingface_hub.errors import OfflineModeIsEnabled  # noqa: PLC0415 - as in probe

    if isinstance(error, OfflineModeIsEnabled):
        return OFFLINE
    status = _status(error)
    if status == 401:
        return "the Hub does not accept the token of this machine (for another one, run `hf auth login`)"
    if status is not None:
        return f"the Hub answered with HTTP status {status}"
    return f"the Hub cannot be reached ({str(error).strip() or type(error).__name__})"


def _status(error: Exception) -> int | None:
    """What the Hub answered with; None where it did not answer."""
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415 - as in probe

    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _cached_files(repo: str, revision: str) -> tuple[str, ...]:
    from huggingface_hub import errors, snapshot_download  # noqa: PLC0415 - as in probe

    try:
        folder = snapshot_download(repo, repo_type="dataset", revision=revision, local_files_only=True)
    except errors.IncompleteSnapshotError as error:
        folder = error.snapshot_path
    except errors.LocalEntryNotFoundError:
        return ()
    return tuple(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())
