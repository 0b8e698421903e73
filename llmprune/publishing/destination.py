"""Where a checkpoint goes on the Hub, what the repository holds before, and the result of sending."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmprune.errors import TargetError
from llmprune.hub.access import check_repo_id

DEFAULT_BRANCH = "main"


@dataclass(frozen=True)
class Destination:
    """Where a checkpoint goes.

    Attributes:
        repo_id: owner and name.
        private: make a new repository private.
        revision: the branch; it is made if there is none.
        create_pr: propose the files in a pull request instead of putting them on the branch.
        tag: a tag for the commit; None: no tag.
        force: replace what the repository holds.

    Raises:
        TargetError: an invalid name of a repository, or options that exclude each other.
    """

    repo_id: str
    private: bool = False
    revision: str | None = None
    create_pr: bool = False
    tag: str | None = None
    force: bool = False

    def __post_init__(self) -> None:
        check_repo_id(self.repo_id)
        if self.create_pr and (self.revision is not None or self.tag is not None):
            other = "revision" if self.revision is not None else "tag"
            raise TargetError(
                f"A pull request is made against {DEFAULT_BRANCH}: `create_pr` and `{other}` exclude each other."
            )

    @property
    def branch(self) -> str:
        """The branch that the files go to, or are proposed for."""
        return self.revision or DEFAULT_BRANCH


@dataclass(frozen=True)
class RemoteState:
    """What a repository holds before anything is sent.

    Attributes:
        exists: whether there is a repository.
        commit: the newest commit of the branch; None: there is no such branch yet.
        files: the files of the branch: path -> the Hub's hash of the content.
        tags: tag -> commit.
        fresh: whether the branch is new. It then begins with the files of the main branch, which may be removed.
    """

    exists: bool
    commit: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    fresh: bool = False


@dataclass(frozen=True)
class Sent:
    """The result of sending.

    Attributes:
        commit: the commit that holds the files.
        url: the page of that commit or pull request.
        changed: paths that were sent or removed; empty: all files were there already.
        compared: number of files whose hashes on the Hub were compared with the local ones.
    """

    commit: str
    url: str
    changed: tuple[str, ...]
    compared: int
