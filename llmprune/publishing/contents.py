"""Which files of a checkpoint may be published. One file that does not belong stops everything."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path, PurePosixPath

from llmprune.artifacts.checkpoints.checkpoint import INDEX_NAME
from llmprune.artifacts.files.digests import FileDigest
from llmprune.artifacts.records.pruning import RECORD_NAME
from llmprune.errors import ArtifactError
from llmprune.models.belonging import beside_weights, leads_outside

CARD_NAME = "README.md"
_BELONGS = ("config.json", INDEX_NAME, RECORD_NAME, CARD_NAME)
_REASONS = (
    ("optimizer*", "it is the state of a training"),
    ("scheduler*", "it is the state of a training"),
    ("rng_state*", "it is the state of a training"),
    ("trainer_state.json", "it is the state of a training"),
    ("training_args.bin", "it is the state of a training"),
    ("*.partial", "it was left by something that did not finish"),
    ("*.lock", "it is a lock"),
    ("*token", "its name says that it holds an access token"),
    ("*.safetensors", "it is not a shard of this checkpoint"),
    (".*", "hidden files do not belong to a checkpoint"),
    ("__pycache__", "it is a cache"),
    *((f"*.{kind}", "pickles can run code and are not published") for kind in ("bin", "pt", "pth", "ckpt", "pkl")),
)
_VOCABULARIES = ("tokenizer.json", "vocab*.json", "added_tokens.json")  # any word may be one, a path too
_SECRETS = re.compile(
    rb"\b(?:hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{36,}|sk-[A-Za-z0-9_-]{32,}|AKIA[0-9A-Z]{16})"
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
# At the start of a value, or behind a space, a quote or =: a path from the root, a drive or a home. What every
# machine has under /proc, /sys and /dev tells nothing of this one.
_PATH = re.compile(
    r"""(?:^|(?<=[\s"'=(]))(?:(?!/(?:proc|sys|dev)/)/(?:[\w.@+~-]+/)+[\w.@+~-]|~/\w|[A-Za-z]:\\\w|\\\\\w|file://)"""
)


@dataclass(frozen=True)
class LocalFile:
    """A file to publish.

    Attributes:
        path: its path in the repository, with ``/``.
        content: its path on this machine, or its content.
    """

    path: str
    content: Path | bytes

    @cached_property
    def size(self) -> int:
        """Bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    @cached_property
    def hashes(self) -> tuple[str, str]:
        """SHA-256 of the content, and its SHA-1 in git: the Hub's names of large and of small files."""
        large, small = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        for piece in self._pieces():
            large.update(piece)
            small.update(piece)
        return large.hexdigest(), small.hexdigest()

    @property
    def digest(self) -> FileDigest:
        """Size and SHA-256, of which the latter is computed once."""
        return FileDigest(self.size, self.hashes[0])

    def _pieces(self) -> Iterator[bytes]:
        if isinstance(self.content, bytes):
            yield self.content
            return
        with self.content.open("rb") as file:
            while piece := file.read(1 << 20):
                yield piece


def collect(directory: Path, shards: Sequence[Path]) -> tuple[LocalFile, ...]:
    """The files of a checkpoint directory, in the order of their names.

    Args:
        directory: the checkpoint.
        shards: its weight files.

    Raises:
        ArtifactError: a file does not belong there, or holds what must not be published. Nothing secret is shown.
    """
    weights = {PurePosixPath(shard.name) for shard in shards}
    known = {*map(PurePosixPath, _BELONGS), *beside_weights(directory), *weights}
    folders = {path.parts[0] for path in known if len(path.parts) > 1}
    files = []
    for path in sorted(directory.iterdir()):
        is_known = path.is_dir() and path.name in folders
        for file in sorted(inner for inner in path.rglob("*") if not inner.is_dir()) if is_known else [path]:
            name = PurePosixPath(file.relative_to(directory).as_posix())
            if name not in weights:
                _require_belongs(directory, file, is_known=name in known)
            _require_inside(directory, file)
            files.append(LocalFile(str(name), file))
    for found in files:
        require_publishable(found)
    return tuple(files)


def require_publishable(file: LocalFile) -> None:
    """Check that a file holds no access token and, in JSON, no path of this machine. Weights are not read.

    Raises:
        ArtifactError: it does.
    """
    if file.path.endswith(".safetensors"):
        return
    data = file.content if isinstance(file.content, bytes) else file.content.read_bytes()
    if _SECRETS.search(data) is not None:
        raise ArtifactError(
            f"{file.path} holds what looks like an access token or a key; remove it (and revoke it: it may have been "
            "seen), then type the same command again."
        )
    if file.path.endswith(".json") and not any(fnmatch(Path(file.path).name, known) for known in _VOCABULARIES):
        _require_no_paths(file.path, data)


def _require_belongs(directory: Path, path: Path, *, is_known: bool) -> None:
    reason = next((why for pattern, why in _REASONS if fnmatch(path.name, pattern)), None)
    if reason is None and not is_known:
        reason = f"a checkpoint has no such {'folder' if path.is_dir() else 'file'}"
    if reason is not None:
        raise ArtifactError(f"{path} does not belong to what is published: {reason}. Move it out of {directory}.")


def _require_inside(directory: Path, path: Path) -> None:
    if leads_outside(directory, path):
        raise ArtifactError(f"{path} is a link that leads out of {directory}; put the file itself there.")


def _require_no_paths(name: str, data: bytes) -> None:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{name} is not valid JSON ({error}); write it again, or move it away.") from error
    for key, text in _strings(content):
        if _PATH.search(text) is not None:
            raise ArtifactError(
                f"{name} holds a path of this machine at '{key}', which everybody could read. Remove it from the file, "
                "then type the same command again."
            )


def _strings(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a JSON value, and its place. Chat templates are left out: they are programs."""
    match value:
        case str():
            yield key, value
        case list():
            for index, one in enumerate(value):
                yield from _strings(one, f"{key}[{index}]")
        case dict():
            for name, one in value.items():
                if name != "chat_template":
                    yield from _strings(one, f"{key}.{name}".lstrip("."))
