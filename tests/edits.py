"""Editing artifacts as llmprune itself might have written them: with a digest that fits."""

import json
from pathlib import Path

from llmprune.artifacts.records.content import with_digest

DIGEST = "content_sha256"


def edit_json(path: Path, **changes: object) -> None:
    """Replace fields of a JSON file; the digest of an artifact is made anew."""
    content = json.loads(path.read_text())
    known = content.pop(DIGEST, None)
    content |= changes
    path.write_text(json.dumps(content if known is None else with_digest(content)))


def content_of(path: Path) -> dict:
    """What a JSON artifact holds beside its digest, as `--json` prints it."""
    content = json.loads(path.read_text())
    del content[DIGEST]
    return content
