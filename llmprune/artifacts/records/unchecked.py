"""Artifacts of earlier versions of llmprune: they have no digest, so nothing can tell whether they are intact."""

from __future__ import annotations

import warnings
from pathlib import Path


class UncheckedWarning(UserWarning):
    """An artifact was read that has no digest.

    Attributes:
        path: the artifact.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} was written by an earlier llmprune and has no digest: it is not checked.")
        self.path = path


def remark_unchecked(path: Path) -> None:
    """Say that an artifact was read, but not checked."""
    warnings.warn(UncheckedWarning(path), stacklevel=3)
