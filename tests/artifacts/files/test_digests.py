import hashlib

import pytest

from llmprune.artifacts.files.digests import FileDigest, copy_file


@pytest.mark.parametrize("size", [0, 5, (1 << 20) + 3])
def test_what_is_told_of_a_copy_is_what_lies_there(tmp_path, size):
    content = bytes(number % 251 for number in range(size))
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(content)
    told = copy_file(source, target)
    assert target.read_bytes() == content
    assert told == FileDigest(size, hashlib.sha256(content).hexdigest())
    assert told == FileDigest.of_file(target) == FileDigest.of_bytes(content)


def test_a_file_that_is_there_is_not_copied_over(tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    with pytest.raises(FileExistsError):
        copy_file(source, target)
    assert target.read_bytes() == b"old"
