"""What is in a folder, without what differs between two runs that are the same: times, and the machine."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Tree = Mapping[str, object]

_TIMES = {"created", "seconds", "prune_seconds", "bench_seconds", "load_seconds", "machine"}
_DIGESTS_OF_TIMES = {"importance", "content_sha256"}  # of a file with times in it
_TIMED = re.compile(r"\d{8}T\d{6}\.\d{6}Z|\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d(?:\+00:00)?)?(?: UTC)?")
_LASTED = re.compile(r"\b\d+(?:\.\d+)? (?:s|ms|seconds|minutes)\b")


def tree(folder: Path) -> Tree:
    """Every file of a folder, hidden ones too: JSON without times, a digest of the rest; folders are None."""
    return {entry_name(path, folder): _content(path) for path in sorted(folder.rglob("*"))}


def entry_name(path: Path, folder: Path) -> str:
    """What a file of a folder is called in its tree: by its number where its name is a time."""
    name = str(path.relative_to(folder))
    if _TIMED.search(path.name) is None:
        return name
    alike = sorted(one.name for one in path.parent.iterdir() if _TIMED.search(one.name) is not None)
    return _TIMED.sub(f"TIME-{alike.index(path.name)}", name)


def differences(found: Tree, expected: Tree) -> list[str]:
    """The files that are there and should not, that lack, and that differ.

    A benchmark that was whole when the kill came is a result like any other: the next one stands beside it.
    """
    more = found.keys() - expected.keys()
    finished = {name for name in more if "bench/TIME-" in name and found[name] in expected.values()}
    over = [f"{name} is left over" for name in more - finished]
    gone = [f"{name} is gone" for name in expected.keys() - found.keys()]
    both = sorted(found.keys() & expected.keys())
    differ = [f"{name} differs{_where(found[name], expected[name])}" for name in both if found[name] != expected[name]]
    return [*sorted(over), *sorted(gone), *differ]


def lost(found: Tree, before: Tree) -> list[str]:
    """The files of ``before`` whose content is in no file any more."""
    contents = [json.dumps(content, sort_keys=True) for content in found.values()]
    return [
        name
        for name, content in before.items()
        if content is not None and json.dumps(content, sort_keys=True) not in contents
    ]


def printed(text: str) -> object:
    """A result on stdout, without times."""
    try:
        return _timeless(json.loads(text))
    except ValueError:
        return _LASTED.sub("LASTED", _TIMED.sub("TIME", text))


def _where(found: object, expected: object) -> str:
    """The first field in which two JSON values differ, or the first place of two texts, with what stands there."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in found.keys() | expected.keys():
            if found.get(name) != expected.get(name):
                return f".{name}{_where(found.get(name), expected.get(name))}"
    if isinstance(found, str) and isinstance(expected, str):
        pairs = enumerate(zip(found, expected, strict=False))
        first = next((place for place, (one, other) in pairs if one != other), min(len(found), len(expected)))
        found, expected = found[max(0, first - 10) :], expected[max(0, first - 10) :]
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            if one != other:
                return f"[{place}]{_where(one, other)}"
    return f": {found!s:.60} instead of {expected!s:.60}"


def _content(path: Path) -> object:
    if path.is_symlink():
        return f"link to {path.readlink()}"
    if path.is_dir():
        return None
    data = path.read_bytes()
    if path.suffix in {".json", ".html", ".md"}:
        return printed(data.decode(errors="replace"))
    return hashlib.sha256(data).hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(one) for name, one in value.items() if name not in _TIMES | _DIGESTS_OF_TIMES}
    if isinstance(value, list):
        return [_timeless(one) for one in value]
    return _LASTED.sub("LASTED", _TIMED.sub("TIME", value)) if isinstance(value, str) else value
