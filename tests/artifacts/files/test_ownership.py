"""What is deleted: files that are llmprune's, one by one, and never through a link."""

import errno
import os
from pathlib import Path

import pytest

from llmprune.artifacts.files.ownership import remove_own, require_own
from llmprune.artifacts.files.temporary import remove_leftovers, scratch_directory, temporary_file
from llmprune.errors import OutputExistsError
from tests.killed import killed


@pytest.fixture
def folder(tmp_path):
    """A folder of ours, in a folder with a file of the user's."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "ours.bin").write_text("mine")
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    for name in ("ours.bin", "inner/ours.bin", "record.json"):
        (folder / name).write_text("ours")
    return folder


def ours(path):
    return path.name in {"ours.bin", "record.json"}


def test_a_folder_that_is_wholly_ours_goes(folder):
    require_own(folder, ours, instead="go away.")
    assert remove_own(folder, ours) == []
    assert not folder.exists()
    assert remove_own(folder, ours) == []
    require_own(folder, ours, instead="go away.")


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(folder, monkeypatch):
    scandir = os.scandir

    def failing(path):
        if Path(path).name == "inner":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(OSError, match="Input/output error"):
        require_own(folder, ours, instead="go away.")
    with pytest.raises(OSError, match="Input/output error"):
        remove_own(folder, ours)


@pytest.mark.parametrize("name", ["notes.txt", "inner/notes.txt", "new/notes.txt"])
def test_a_file_of_somebody_else_is_named_and_stays(name, folder):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(OutputExistsError, match=f"folder holds {name}, which llmprune did not write; go away"):
        require_own(folder, ours, instead="go away.")
    assert remove_own(folder, ours) == [name]
    assert [one for one in folder.rglob("*") if one.is_file()] == [path]


@pytest.mark.parametrize("inside", [True, False])
def test_a_link_is_never_followed_whatever_it_is_called(inside, folder):
    elsewhere = folder.parent / "elsewhere"
    link = folder / "ours.bin" if inside else folder / "linked"
    link.unlink(missing_ok=True)
    link.symlink_to(elsewhere / "ours.bin" if inside else elsewhere)
    with pytest.raises(OutputExistsError, match="did not write"):
        require_own(folder, ours, instead="go away.")
    assert remove_own(folder, ours) == [link.name]
    assert link.is_symlink()
    assert (elsewhere / "ours.bin").read_text() == "mine"


def test_a_folder_that_is_a_link_is_left_alone(folder):
    link = folder.parent / "link"
    link.symlink_to(folder.parent / "elsewhere")
    with pytest.raises(OutputExistsError, match="link is a link, and llmprune replaces and deletes nothing through"):
        require_own(link, ours, instead="go away.")
    assert remove_own(link, ours) == ["link"]
    assert (link / "ours.bin").read_text() == "mine"


def test_the_record_goes_last(folder):
    for at in range(5):
        if not killed(lambda: remove_own(folder, ours, last=("record.json",)), folder, at=at):
            break
        assert (folder / "record.json").exists() or not any(folder.rglob("*.bin"))
    assert at > 1


def test_scratch_of_a_killed_process_goes_and_that_of_a_living_one_stays(tmp_path):
    def work():
        with scratch_directory(tmp_path) as scratch:
            (scratch / "half").write_text("half")
            (scratch / "more").write_text("more")

    assert killed(work, tmp_path, at=2)
    assert len(list(tmp_path.iterdir())) == 1
    with scratch_directory(tmp_path) as mine:
        assert list(tmp_path.iterdir()) == [mine]
        remove_leftovers(tmp_path)
        assert list(tmp_path.iterdir()) == [mine]
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_file_of_a_killed_process_goes_and_that_of_a_living_one_stays(tmp_path):
    (tmp_path / ".run.json.1-0.partial").write_text("half")
    (tmp_path / ".link.1-0.partial").symlink_to(__file__)
    with temporary_file(tmp_path / "run.json") as mine:
        remove_leftovers(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {mine.name, ".link.1-0.partial"}
    assert Path(__file__).exists()
