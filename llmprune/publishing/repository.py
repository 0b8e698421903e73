"""A repository on the Hub: what it holds, sending files in one commit, and checking what arrived."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from llmprune.artifacts.records.pruning import RECORD_NAME
from llmprune.errors import HubError, OutputExistsError, VerificationError
from llmprune.hub.access import explained, patiently, require_login
from llmprune.hub.failures import read_failure
from llmprune.publishing.contents import CARD_NAME, LocalFile
from llmprune.publishing.destination import DEFAULT_BRANCH, Destination, RemoteState, Sent
from llmprune.quiet import quiet
from llmprune.spelling import listed
from llmprune.version import __version__

_LARGE = 10_000_000  # bytes from which a file is sent by itself
_OWN_FILES = {".gitattributes"}  # which the Hub itself writes


class HubRepository:
    """One model repository, through huggingface_hub: its token, its endpoint, its resumable uploads.

    Args:
        destination: the repository, and how to send to it.
        say: called with messages for people.
    """

    def __init__(self, destination: Destination, *, say: Callable[[str], None] = lambda _: None) -> None:
        self._to, self._say = destination, say
        self._api = HfApi(library_name="llmprune", library_version=__version__)

    def look(self) -> RemoteState:
        """What the repository holds now.

        Raises:
            AccessError: nobody is logged in, or the user may not read it.
            OutputExistsError: it is public, and a private one is wanted.
            HubError: the Hub cannot be reached, or failed.
        """
        require_login()
        repo = self._to.repo_id
        with explained(repo), quiet():
            try:
                info = patiently(lambda: self._api.model_info(repo, expand=["private"]), say=self._say)
            except RepositoryNotFoundError as error:
                if read_failure(error).status != 404:  # the Hub does not know this token
                    raise
                return RemoteState(exists=False)
            refs = patiently(lambda: self._api.list_repo_refs(repo), say=self._say)
            commits = {branch.name: branch.target_commit for branch in refs.branches}
            tags = {tag.name: tag.target_commit for tag in refs.tags}
            commit, main = commits.get(self._to.branch), commits.get(DEFAULT_BRANCH)
            files = self._files(known) if (known := commit or main) else {}
            fresh = self._to.branch != DEFAULT_BRANCH and commit in (None, main)
        if self._to.private and not info.private:
            raise OutputExistsError(
                f"{repo} exists already and is public; make it private in its settings on the Hub, or leave out "
                "`private`."
            )
        return RemoteState(True, commit, files, tags, fresh)

    def require_room(self, state: RemoteState, files: Sequence[LocalFile]) -> None:
        """Check that no other content would be replaced, or mixed with what is sent.

        A repository that holds just this checkpoint (the same ``llmprune.json``) may get another card, newer
        benchmarks, and what an interrupted push left out.

        Raises:
            OutputExistsError: other content is there, and ``force`` is not set.
        """
        tag = self._to.tag
        if tag is not None and tag in state.tags and self._changes(state, files):
            raise OutputExistsError(f"{self._to.repo_id} has a tag {tag} already; give another one with `tag`.")
        record = next(file for file in files if file.path == RECORD_NAME)
        if self._to.force or state.fresh or state.files.get(record.path) in record.hashes:
            return
        local = {file.path: file for file in files}
        others = [path for path, content in state.files.items() if path not in local or not _same(local[path], content)]
        if others:
            raise OutputExistsError(
                f"{self._to.repo_id} ({self._to.branch}) already holds {listed(others)}; push to another repository or "
                "another `revision`, or replace all that it holds with `force=True` (its history keeps it)."
            )

    def send(
        self, state: RemoteState, files: Sequence[LocalFile], *, message: str, advance: Callable[[float], None]
    ) -> Sent:
        """Send what the Hub does not have yet, all in one commit, and compare what arrived.

        Large files are sent before the commit, one after the other. When the command is interrupted and typed again,
        files that arrived are not sent again.

        Args:
            state: the state that ``look`` returned.
            files: the files of the checkpoint.
            message: the commit's message.
            advance: called with the number of bytes that arrived since its last call.

        Raises:
            AccessError: no right to write there.
            HubError: the Hub failed, or somebody changed the repository meanwhile.
            VerificationError: what the Hub holds is not what was sent.
        """
        repo = self._to.repo_id
        with explained(repo), quiet():
            if not state.exists:
                patiently(
                    lambda: self._api.create_repo(repo, private=self._to.private or None, exist_ok=True), say=self._say
                )
            head = self._branch_head(state)
            added, removed = self._changes(state, files), self._superfluous(state, files)
            link, commit = f"{self._api.endpoint}/{repo}/tree/{self._to.branch}", head
            if added or removed:
                self._validate_card(files)
                operations = self._upload(added, advance)
                link, commit = self._commit(files, operations, removed, head, message)
            compared = self._compare(commit, files)
            self._tag(state, commit)
        return Sent(commit, link, (*(file.path for file in added), *removed), compared)

    def _branch_head(self, state: RemoteState) -> str:
        """The newest commit of the branch. A missing branch is made."""
        if state.commit is not None:
            return state.commit
        repo, branch = self._to.repo_id, self._to.branch
        if branch != DEFAULT_BRANCH:
            patiently(lambda: self._api.create_branch(repo, branch=branch, exist_ok=True), say=self._say)
        found = patiently(lambda: self._api.model_info(repo, revision=branch, expand=["sha"]), say=self._say)
        assert found.sha is not None, "the newest commit was asked for"
        return found.sha

    def _changes(self, state: RemoteState, files: Sequence[LocalFile]) -> list[LocalFile]:
        return [file for file in files if not _same(file, state.files.get(file.path))]

    def _superfluous(self, state: RemoteState, files: Sequence[LocalFile]) -> list[str]:
        """Files to remove with ``force`` or from a new branch: another model's shards would be loaded instead."""
        known = {file.path for file in files}
        return [path for path in state.files if path not in known] if self._to.force or state.fresh else []

    def _validate_card(self, files: Sequence[LocalFile]) -> None:
        """Let the Hub check the card's metadata before gigabytes are sent."""
        for file in files:
            if file.path == CARD_NAME and isinstance(file.content, bytes):
                card = ModelCard(file.content.decode("utf-8"), ignore_metadata_errors=True)
                patiently(card.validate, say=self._say)

    def _upload(self, files: Sequence[LocalFile], advance: Callable[[float], None]) -> list[CommitOperationAdd]:
        operations = [CommitOperationAdd(file.path, file.content) for file in files]
        # The client sends a group in threads, and Ctrl-C waits for them: fine for small files.
        small = [one for one in operations if not _goes_alone(one)]
        for group in ([small] if small else []) + [[one] for one in operations if _goes_alone(one)]:
            self._api.preupload_lfs_files(
                self._to.repo_id,
                group,
                revision=self._to.branch,
                create_pr=self._to.create_pr,
                free_memory=False,
            )
            advance(sum(one.upload_info.size for one in group))
        return operations

    def _commit(
        self,
        files: Sequence[LocalFile],
        additions: Sequence[CommitOperationAdd],
        removed: Sequence[str],
        head: str,
        message: str,
    ) -> tuple[str, str]:
        """Make the commit and return its page and hash. Where the answer was lost, the commit is looked for first."""

        def call() -> tuple[str, str]:
            deletions = [CommitOperationDelete(path, is_folder=False) for path in removed]
            try:
                made = self._api.create_commit(
                    self._to.repo_id,
                    [*additions, *deletions],
                    commit_message=message,
                    revision=self._to.branch,
                    create_pr=self._to.create_pr,
                    parent_commit=head,
                )
            except Exception as error:
                if read_failure(error).status == 412 and (found := self._arrived(files)) is not None:
                    return found
                raise
            return (made.pr_url or made.commit_url), made.oid

        # A pull request cannot be found again, so a second try might make a second one.
        return call() if self._to.create_pr else patiently(call, say=self._say)

    def _arrived(self, files: Sequence[LocalFile]) -> tuple[str, str] | None:
        """The page and hash of the branch's commit, if it holds all files already."""
        info = self._api.model_info(self._to.repo_id, revision=self._to.branch, expand=["sha"])
        assert info.sha is not None, "the newest commit was asked for"
        there = self._files(info.sha)
        if any(not _same(file, there.get(file.path)) for file in files):
            return None
        return f"{self._api.endpoint}/{self._to.repo_id}/commit/{info.sha}", info.sha

    def _compare(self, commit: str, files: Sequence[LocalFile]) -> int:
        there = self._files(commit)
        wrong = [file.path for file in files if not _same(file, there.get(file.path))]
        if wrong:
            raise VerificationError(
                f"{self._to.repo_id} does not hold what was sent: the hashes of {', '.join(wrong[:3])} differ there. "
                f"Do not use commit {commit[:12]}; type the same command again with `force=True`."
            )
        return len(files)

    def _tag(self, state: RemoteState, commit: str) -> None:
        repo, tag = self._to.repo_id, self._to.tag
        if tag is None or state.tags.get(tag) == commit:
            return
        if tag in state.tags:
            raise OutputExistsError(f"{repo} has a tag {tag} already, of another commit; give another with `tag`.")
        try:
            patiently(lambda: self._api.create_tag(repo, tag=tag, revision=commit, exist_ok=False), say=self._say)
        except Exception as error:
            if read_failure(error).status != 409:
                raise
            raise HubError(
                f"{repo} got a tag {tag} meanwhile; the files were sent, give them another `tag`."
            ) from error

    def _files(self, commit: str) -> dict[str, str]:
        tree = self._api.list_repo_tree(self._to.repo_id, recursive=True, revision=commit)
        return {
            entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id
            for entry in tree
            if isinstance(entry, RepoFile) and entry.path not in _OWN_FILES
        }


def _goes_alone(operation: CommitOperationAdd) -> bool:
    return operation.path_in_repo.endswith(".safetensors") or operation.upload_info.size >= _LARGE


def _same(file: LocalFile, remote: str | None) -> bool:
    return remote is not None and remote in file.hashes
