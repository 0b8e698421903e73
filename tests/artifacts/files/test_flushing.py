"""What must survive a power cut is flushed to the disk before it gets its name, and its folder after it."""

import os
from pathlib import Path

import pytest

from llmprune.artifacts.files.atomic import atomic_directory, write_text_atomic


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Of each flush: the inode, and whether the final name was there already."""
    seen: list[tuple[int, bool]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        seen.append((os.fstat(descriptor).st_ino, Path("out").exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return seen


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def inode(path: str) -> int:
    return Path(path).stat().st_ino


def test_a_file_is_flushed_before_its_name_and_its_folder_after(flushed: list[tuple[int, bool]]):
    write_text_atomic(Path("out"), "content")
    assert flushed == [(inode("out"), False), (inode("."), True)]


def test_all_of_a_folder_is_flushed_before_its_name_and_its_parent_after(flushed: list[tuple[int, bool]]):
    with atomic_directory(Path("out")) as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "file").write_text("content")
    *before, last = flushed
    assert sorted(before) == sorted((inode(path), False) for path in ("out", "out/sub", "out/sub/file"))
    assert last == (inode("."), True)
