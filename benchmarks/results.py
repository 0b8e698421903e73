"""The results files of the measurements: JSON that an interrupted measurement goes on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmprune.artifacts.files.atomic import write_text_atomic


def read_results(path: Path | None, new: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a results file holds.

    Args:
        path: where it is.
        new: what one that is not there yet, or not wanted, begins with; None: it must be there.
    """
    if new is not None and (path is None or not path.exists()):
        return new
    assert path is not None, "a file is named"
    return json.loads(path.read_text(encoding="utf-8"))


def keep_results(path: Path | None, results: dict[str, Any]) -> None:
    """Write a results file, if one is wanted; the old one stays whole until the new one is."""
    if path is not None:
        write_text_atomic(path, json.dumps(results, indent=1) + "\n")
