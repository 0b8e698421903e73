"""Small files from anywhere: whole, regular and of a bounded size."""

import os

import pytest

from llmprune.artifacts.files.ownership import require_own
from llmprune.artifacts.files.paths import require_room_for_names
from llmprune.artifacts.files.reading import read_small
from llmprune.errors import OutputExistsError


@pytest.mark.parametrize("size", [0, 1, 70_000])
def test_a_file_is_read_whole_up_to_a_bound(tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(250)) * (size // 250) + b"x" * (size % 250))
    assert read_small(path) == read_small(path, most=size) == path.read_bytes()
    if size:
        with pytest.raises(OSError, match=f"it has more than {size - 1:,} bytes"):
            read_small(path, most=size - 1)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    with pytest.raises(IsADirectoryError):
        read_small(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is no regular file"):
        read_small(tmp_path / "pipe")


def test_a_file_in_the_place_of_a_folder_of_ours_is_refused(tmp_path):
    (tmp_path / "sweep").touch()
    with pytest.raises(OutputExistsError, match="sweep is a file, where a folder of llmprune's was expected; go away"):
        require_own(tmp_path / "sweep", lambda path: True, instead="go away.")


def test_a_place_needs_room_for_the_names_of_files_in_it(tmp_path):
    require_room_for_names(tmp_path)
    with pytest.raises(OSError):
        require_room_for_names(tmp_path / ("x" * 300))
