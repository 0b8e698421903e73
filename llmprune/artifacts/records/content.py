"""The digest that a JSON file of llmprune's carries of its own content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from llmprune.errors import ArtifactError

_DIGEST = "content_sha256"


def with_digest(content: Mapping[str, object]) -> dict[str, object]:
    """The content of a JSON file with its own digest."""
    as_read = json.loads(json.dumps(content))  # names that are numbers come back as text
    return {**as_read, _DIGEST: _digest_of(as_read)}


def take_digest(content: dict[str, object], path: Path) -> bool:
    """See that the content of a JSON file is what its digest says, and take that out; whether there was one.

    Raises:
        ArtifactError: it is not.
    """
    told = content.pop(_DIGEST, None)
    if told is not None and told != _digest_of(content):
        raise ArtifactError(
            f"{path} is damaged, or was edited: its content does not fit its digest. Put back an intact copy, or make "
            f"it anew; if the edit was meant, delete the line '{_DIGEST}' from it."
        )
    return told is not None


def _digest_of(content: Mapping[str, object]) -> str:
    """SHA-256 of JSON, however it is laid out in a file."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
