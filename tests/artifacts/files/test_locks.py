"""A folder that is held: again by its holder, not by another, and for a moment by one after the other."""

import fcntl
import os
import shutil
import threading

import pytest

from llmprune.artifacts.files import locks
from llmprune.artifacts.files.locks import LOCK, held, held_for_a_moment
from llmprune.errors import ArtifactError


def test_the_holder_may_hold_a_folder_once_more_and_another_may_not(tmp_path):
    folder = tmp_path / "new" / "folder"
    with held(folder, busy="It is busy."):
        with held(folder, busy="It is busy."):
            pass
        with pytest.raises(BlockingIOError), (folder / LOCK).open() as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (folder / LOCK).open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(ArtifactError, match=r"^It is busy\.$"), held(folder, busy="It is busy."):
            pass
    with held(folder, busy="It is busy."):
        assert (folder / LOCK).exists()


def test_one_waits_for_the_other_and_for_a_folder_that_was_made_anew(tmp_path):
    folder, order = tmp_path / "folder", []

    def second():
        with held_for_a_moment(folder):
            order.append("second")
            assert folder.is_dir()

    with held_for_a_moment(folder):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.05)  # it waits now; if it began later still, the order is the same
        shutil.rmtree(folder)
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"] and folder.is_dir()


def test_a_folder_that_is_replaced_while_one_waits_is_taken_anew(tmp_path, monkeypatch):
    folder, locked = tmp_path / "folder", []

    class Replacing:
        LOCK_EX = fcntl.LOCK_EX

        @staticmethod
        def flock(descriptor, operation):
            locked.append(os.fstat(descriptor).st_ino)
            if len(locked) == 1:
                folder.rename(tmp_path / "old")
                folder.mkdir()

    monkeypatch.setattr(locks, "fcntl", Replacing)
    with held_for_a_moment(folder):
        assert locked == [(tmp_path / "old").stat().st_ino, folder.stat().st_ino]


def test_where_nothing_can_be_locked_the_folder_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    with held_for_a_moment(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
