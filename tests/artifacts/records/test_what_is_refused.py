"""Records that contradict themselves, edited files, and states that cannot be gone on with."""

import errno
import json
import os
import warnings

import pytest
from pydantic import ValidationError

from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.content import take_digest, with_digest
from llmprune.artifacts.records.generations import Generations
from llmprune.artifacts.records.provenance import Record, read_state, recorded_as, write_state
from llmprune.artifacts.records.unchecked import UncheckedWarning
from llmprune.artifacts.run import RunRecord
from llmprune.errors import ArtifactError, OutputExistsError
from tests.report.made import generations
from tests.report.made_bench import AGREEMENT, DENSE, DEPTH, bench, model_result

RUN = RunRecord(model="m", directory="d", name="m")


class State(Record):
    done: dict[str, int]


@pytest.mark.parametrize("lacking", ["perplexity", "tasks", "speed", "agreement"])
def test_what_was_measured_has_its_protocol(lacking):
    result = bench(model_result("m", ppl=15.0, speed=150.0, blocks=DEPTH, parameters=10**6, agreement=0.5))
    assert result.agreement == AGREEMENT and result.baseline == DENSE
    content = result.model_dump()
    BenchResult.model_validate(content)
    with pytest.raises(ValidationError, match="has no protocol"):
        BenchResult.model_validate({**content, lacking: () if lacking == "perplexity" else None})


def test_every_model_continues_every_prompt():
    content = generations().model_dump()
    with pytest.raises(ValidationError, match="not one text for each prompt"):
        Generations.model_validate({**content, "prompts": ("The sea is", "And")})


def test_a_digest_is_of_the_content_however_it_is_laid_out(tmp_path):
    content = with_digest({"b": 1, "a": {"2": [1.5, None]}})
    turned = dict(reversed(json.loads(json.dumps(content, indent=3)).items()))
    assert take_digest(turned, tmp_path) and turned == {"a": {"2": [1.5, None]}, "b": 1}
    assert not take_digest({"a": 1}, tmp_path)
    with pytest.raises(ArtifactError, match=r"is damaged, or was edited: .*delete the line 'content_sha256' from it"):
        take_digest({**content, "b": 2}, tmp_path)


def test_a_state_is_gone_on_with_or_there_is_none(tmp_path):
    path = tmp_path / "state.json"
    assert read_state(path, State) is None
    write_state(path, State(done={"3": 7}))
    assert read_state(path, State) == State(done={"3": 7})
    path.write_text(path.read_text().replace("7", "8"))
    assert read_state(path, State) is None, "an edited state"
    for text in ("[]", "3", "null", "{", '{"done": 3}'):
        path.write_text(text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UncheckedWarning)
            assert read_state(path, State) is None
    path.write_text('{"done": {"1": 2}}')
    with pytest.warns(UncheckedWarning, match="is not checked"):
        assert read_state(path, State) == State(done={"1": 2})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"is missing; run the command that writes it again, with `force=True`"),
        ("{", "is not valid JSON"),
        ("[]", "is of kind None, but a file of kind 'llmprune-run' was expected there"),
        ('{"kind": "llmprune-sweep"}', "is of kind 'llmprune-sweep'"),
        ('{"kind": "llmprune-run", "schema_version": 99}', "has schema 99, but this llmprune"),
    ],
)
def test_what_is_no_such_artifact_is_told_by_what_it_is(tmp_path, text, message):
    path = tmp_path / "run.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ArtifactError, match=message):
        RunRecord.read(path)


def test_an_artifact_that_cannot_be_read_or_has_fields_that_do_not_fit(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtifactError, match="cannot be read: Is a directory"):
        RunRecord.read(tmp_path / "folder")
    path = tmp_path / "run.json"
    path.write_text(json.dumps(with_digest({**RUN.model_dump(mode="json"), "model": 3})))
    with pytest.raises(ArtifactError, match=r"is damaged at 'model': .*; delete it to make it anew"):
        RunRecord.read(path)


def test_only_an_artifact_of_ours_is_written_over(tmp_path):
    path = tmp_path / "run.json"
    RUN.write(path)
    RUN.model_copy(update={"name": "other"}).write(path)
    assert RunRecord.read(path).name == "other"
    assert recorded_as(path)["name"] == recorded_as(path, "llmprune-run")["name"] == "other"
    assert recorded_as(path, "llmprune-sweep") is recorded_as(tmp_path / "none") is None
    for text in ("notes", "[]", '{"kind": 3}', '{"kind": "mine"}'):
        path.write_text(text)
        assert recorded_as(path) is None
        with pytest.raises(OutputExistsError, match="was not written by llmprune, or is damaged; move it away"):
            RUN.write(path)
        assert path.read_text() == text
    link = tmp_path / "link.json"
    link.symlink_to(path)
    with pytest.raises(OutputExistsError, match="is a link, and llmprune replaces nothing through links"):
        RUN.write(link)


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
def test_a_machine_that_cannot_read_now_says_nothing_of_a_record(number, tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    write_state(path, State(done={"3": 7}))
    assert read_state(path, State) == State(done={"3": 7})

    def failing(*_args, **_options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("llmprune.artifacts.records.provenance.read_small", failing)
    for read in (lambda: read_state(path, State), lambda: recorded_as(path)):
        with pytest.raises(OSError, match=r"error|many"):
            read()
