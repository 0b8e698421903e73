"""What a Hub keeps: repositories with commits, branches and tags, and large files apart from them."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field

GITATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.bin filter=lfs diff=lfs merge=lfs -text\n"
LARGE = 10_000_000  # bytes from which any file goes to the storage of large files


@dataclass(frozen=True)
class Blob:
    """A file of a commit; a large one is a pointer to the storage."""

    data: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        spec = "version https://git-lfs.github.com/spec/v1"
        return f"{spec}\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @property
    def oid(self) -> str:
        """The git object's: of a large file, the pointer's."""
        content = self.pointer if self.large else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.oid

    def entry(self, path: str) -> dict:
        """How a listing shows it."""
        shown: dict = {"type": "file", "path": path, "size": len(self.data), "oid": self.oid}
        if self.large:
            shown["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": len(self.pointer)}
        return shown


@dataclass
class Repository:
    """One model repository, with its first commit."""

    owner: str
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[str, str] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.branches["main"] = self.record({".gitattributes": Blob(GITATTRIBUTES, large=False)}, "initial commit")

    def record(self, files: dict[str, Blob], title: str) -> str:
        """Keep a commit; gives its hash."""
        described = json.dumps([title, len(self.commits), {path: blob.oid for path, blob in files.items()}])
        commit = hashlib.sha1(described.encode()).hexdigest()
        self.commits[commit], self.titles[commit] = files, title
        return commit

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch, a tag, a pull request or a commit's hash means."""
        for names in (self.branches, self.tags, self.pull_requests):
            if revision in names:
                return names[revision]
        return revision if revision in self.commits else None

    def add(self, files: dict[str, bytes], *, branch: str = "main", title: str = "Add files") -> str:
        """Commit files as somebody else would."""
        content = dict(self.commits[self.branches[branch]])
        content |= {path: Blob(data, large=path.endswith(".safetensors")) for path, data in files.items()}
        self.stored |= {blob.sha256: blob.data for blob in content.values() if blob.large}
        self.branches[branch] = self.record(content, title)
        return self.branches[branch]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Paths and contents at a revision, ``.gitattributes`` left out."""
        commit = self.resolve(revision)
        assert commit is not None, f"no revision {revision}"
        return {path: blob.data for path, blob in self.commits[commit].items() if path != ".gitattributes"}

    def upload_mode(self, path: str, size: int) -> str:
        large = size >= LARGE or path.endswith((".safetensors", ".bin"))
        return "lfs" if large and size else "regular"

    def commit(self, lines: list[dict], *, parent: str) -> str | tuple[int, str]:
        """Apply the operations of a commit to ``parent``; gives its hash, or a status and why it is refused."""
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, parent):
            return 412, "A commit has happened since. Please refresh and try again."
        files = dict(self.commits[parent])
        for line in lines:
            refused = self._apply(line["key"], line["value"], files)
            if refused is not None:
                return 400, refused
        return self.record(files, header["summary"])

    def _apply(self, key: str, value: dict, files: dict[str, Blob]) -> str | None:
        match key:
            case "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"], validate=True), large=False)
            case "lfsFile":
                data = self.stored.get(value["oid"])
                if data is None or len(data) != value["size"]:
                    return f"LFS pointer pointed to a file that does not exist: {value['path']}"
                files[value["path"]] = Blob(data, large=True)
            case "deletedFile":
                if files.pop(value["path"], None) is None:
                    return "A file with this name doesn't exist"
            case "header":
                return None
            case _:
                return f"unknown operation {key}"
        return None
