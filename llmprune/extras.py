"""Packages that only some commands need, and that an extra of this one brings."""

from __future__ import annotations

from importlib.util import find_spec

from llmprune.errors import MissingExtraError


def require_extra(module: str, *, extra: str, purpose: str) -> None:
    """See that a package is installed, before it is imported.

    Args:
        module: its name in imports.
        extra: the extra of llmprune that brings it.
        purpose: what needs it, as the beginning of a sentence in the plural.

    Raises:
        MissingExtraError: it is not.
    """
    if find_spec(module) is None:
        raise MissingExtraError(
            f"{purpose} need {module}, which is not installed; type: pip install 'llmprune[{extra}]'"
        )
