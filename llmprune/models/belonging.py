"""What a model has beside its config and its weights, and a user of it needs: tokenizer, processors, code, licence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from llmprune.artifacts.files.ownership import raised
from llmprune.artifacts.files.reading import parse_json, read_small
from llmprune.errors import ModelError

# In the checkpoint's own folder.
_BESIDE_WEIGHTS = (
    "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt",
    "*.model", "*.tiktoken", "tekken.json", "*.jinja", "chat_template*", "*processor_config.json", "requirements.txt",
    "LICENSE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
# Anywhere in it.
_CODE = "*.py"
_TEMPLATES = "additional_chat_templates/*.jinja"
# JSON that may name further files of the model: a vocabulary under another name, say, or voices.
_NAMING = ("config.json", "tokenizer_config.json", "*processor_config.json")


def beside_weights(directory: Path) -> tuple[PurePosixPath, ...]:
    """Paths, relative to a checkpoint directory, of the files that belong to the model beside config and weights."""
    named = _named_files(directory)
    return tuple(path for path in _files(directory) if _belongs(path) or str(path) in named)


def leads_outside(directory: Path, path: Path) -> bool:
    """Whether a file of a checkpoint is a link to one that is not the checkpoint's own.

    Its own are those in the directory, and the blobs that the Hub's cache keeps for it.
    """
    try:
        root, file = directory.resolve(), path.resolve(strict=True)
    except (OSError, RuntimeError):  # it leads nowhere, or round in a circle
        return True
    blobs = root.parent.parent / "blobs"
    return not (file.is_relative_to(root) or (root.parent.name == "snapshots" and file.parent == blobs.resolve()))


def require_own(directory: Path, path: Path) -> None:
    """See that a file of a checkpoint is no link to one that is not the checkpoint's own.

    Raises:
        ModelError: it is. What it leads to is not read, and not named.
    """
    if leads_outside(directory, path):
        raise ModelError(f"{path} is a link that leads out of {directory}; put the file itself there.")


def _belongs(path: PurePosixPath) -> bool:
    if fnmatch(path.name, _CODE) or fnmatch(str(path), _TEMPLATES):
        return True
    return len(path.parts) == 1 and any(fnmatch(path.name, pattern) for pattern in _BESIDE_WEIGHTS)


def _files(directory: Path) -> Iterator[PurePosixPath]:
    """Every file of a checkpoint, but for hidden ones, caches, and what lies in checkpoints of their own inside it."""
    for folder, folders, names in os.walk(directory, followlinks=True, onerror=raised):
        here = Path(folder)
        if here != directory and "config.json" in names:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        inside = PurePosixPath(here.relative_to(directory).as_posix())
        yield from (inside / name for name in sorted(names) if not name.startswith("."))


def _named_files(directory: Path) -> frozenset[str]:
    """Every text in the JSON files of a checkpoint that could be a file's path in it."""
    paths = (path for pattern in _NAMING for path in directory.glob(pattern))
    return frozenset(text for path in paths for text in _texts(_read(path)))


def _read(path: Path) -> object:
    try:
        return parse_json(read_small(path))
    except (OSError, ValueError):  # whoever needs the file will say it
        return None


def _texts(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for one in value:
                yield from _texts(one)
        case dict():
            for one in value.values():
                yield from _texts(one)
