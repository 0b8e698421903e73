"""What was made of a file is made once, until the file changes."""

import os
import shutil
from functools import partial

import pytest

from llmprune.artifacts.files import remembered
from llmprune.artifacts.files.remembered import Remembered


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_text("one")
    return path


@pytest.fixture
def settled(monkeypatch):
    monkeypatch.setattr(remembered, "_SETTLED", -1)


@pytest.mark.usefixtures("settled")
def test_a_file_is_read_once_until_it_changes(file):
    known, read = Remembered(most=2), []

    def make():
        read.append(file.read_text())
        return read[-1]

    assert [known.get(file, make) for _ in range(3)] == ["one"] * 3
    assert known.peek(file) == "one"
    file.write_text("another")
    assert known.peek(file) is None
    assert [known.get(file, make) for _ in range(2)] == ["another"] * 2
    assert read == ["one", "another"]


@pytest.mark.usefixtures("settled")
def test_a_change_with_the_old_size_and_time_is_seen(file):
    known, before = Remembered(most=2), file.stat()
    known.get(file, file.read_text)
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert known.get(file, file.read_text) == "two"
    other = file.with_name("other")
    shutil.copy2(file, other)
    other.write_text("six")
    other.replace(file)
    assert known.get(file, file.read_text) == "six"


def test_nothing_is_remembered_of_a_file_that_changed_a_moment_ago(file):
    known = Remembered(most=2)
    assert known.get(file, file.read_text) == "one"
    assert known.peek(file) is None


@pytest.mark.usefixtures("settled")
def test_what_else_it_depends_on_counts_and_the_oldest_makes_room(file, tmp_path):
    known = Remembered(most=2)
    assert [known.get(file, partial(str, by), by=by) for by in ("a", "b", "a")] == ["a", "b", "a"]
    known.get(tmp_path, lambda: "folder")
    assert [known.peek(file, by="a"), known.peek(file, by="b"), known.peek(tmp_path)] == ["a", None, "folder"]


@pytest.mark.usefixtures("settled")
def test_what_fails_is_tried_again_and_no_file_is_never_remembered(tmp_path):
    known, absent = Remembered(most=2), tmp_path / "absent"
    with pytest.raises(OSError, match="absent"):
        known.get(absent, absent.read_text)
    assert [known.get(absent, partial(int, at)) for at in (1, 2)] == [1, 2]
