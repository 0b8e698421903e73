"""How the settings that a file was made with differ from those asked for, in words for a refusal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

_MOST = 4  # differences that are named
_LONGEST = 40  # characters of a value
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


def differences(found: BaseModel | Mapping[str, Any], asked: BaseModel | Mapping[str, Any]) -> str | None:
    """The settings that differ: ``rounds 4, not 2``; None: there are none.

    Args:
        found: what a file holds.
        asked: what is wanted, of the same kind.
    """
    different = list(_different(dict(found), dict(asked)))
    if not different:
        return None
    more = [f"{len(different) - _MOST} more"] if len(different) > _MOST else []
    return "; ".join([*different[:_MOST], *more])


def _different(found: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    for field, new in asked.items():
        name, old = field.replace("_", " "), found[field]
        if old == new:
            continue
        yield f"other {name}" if _is_nested(old) or _is_nested(new) else f"{name} {_short(old)}, not {_short(new)}"


def _is_nested(value: Any) -> bool:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return any(map(_is_nested, value))
    return isinstance(value, BaseModel)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        text = ", ".join(map(_short, value)) or "none"
    else:
        text = str(value)
    if _FINGERPRINT.fullmatch(text):
        return f"{text[:8]}..."
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
