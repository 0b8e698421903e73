"""An artifact replaces an artifact, and nothing else."""

import pytest

from llmprune.artifacts.run import RunRecord
from llmprune.errors import OutputExistsError

RECORD = RunRecord(model="owner/name", directory="/nowhere", name="owner/name")


@pytest.mark.parametrize("content", ["notes", "{", "[]", '{"kind": "else"}', '{"kind": 3}', "[" * 100_000])
def test_what_llmprune_did_not_write_is_left(content, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(content)
    with pytest.raises(OutputExistsError, match=r"run\.json was not written by llmprune, or is damaged; move it away"):
        RECORD.write(path)
    assert path.read_text() == content


def test_a_link_is_left_even_to_an_artifact(tmp_path):
    RECORD.write(tmp_path / "elsewhere.json")
    before = (tmp_path / "elsewhere.json").read_bytes()
    (tmp_path / "run.json").symlink_to("elsewhere.json")
    with pytest.raises(OutputExistsError, match="is a link, and llmprune replaces nothing through links"):
        RECORD.write(tmp_path / "run.json")
    assert (tmp_path / "elsewhere.json").read_bytes() == before


@pytest.mark.parametrize("content", ['{"kind": "llmprune-run", "schema_version": 99}', '{"kind": "llmprune-bench"}'])
def test_an_artifact_of_another_version_or_kind_is_replaced(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    RECORD.write(tmp_path / "run.json")
    assert RunRecord.read(tmp_path / "run.json") == RECORD
