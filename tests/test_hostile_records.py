"""Every record, changed by nobody in earnest: it is read and shown, or one sentence says what is wrong."""

import json
from functools import partial

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llmprune.artifacts.activations import CalibrationManifest
from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.content import with_digest
from llmprune.artifacts.records.generations import Generations
from llmprune.artifacts.records.importance import Importance
from llmprune.artifacts.records.pruning import PruningRecord
from llmprune.artifacts.records.sweep import SweepResult
from llmprune.artifacts.run import RunRecord
from llmprune.publishing.card import CardFacts, model_card
from llmprune.report.contents import Measurement
from llmprune.report.page import Drawn, render_page, report_sections
from tests.hostile import changed, choosers, damaged, dumped, fuzzed, works_or_says
from tests.report import made

# What lost its digest is read, and said to be unchecked.
pytestmark = pytest.mark.filterwarnings("ignore::llmprune.artifacts.records.unchecked.UncheckedWarning")

RUN = RunRecord(model="/models/tiny", directory="dense", name="tiny", checkpoints=("a", "b"))
RECORDS = {
    "importance": (Importance, made.importance()),
    "scores": (Importance, made.scored()),
    "calibration": (CalibrationManifest, made.calibration()),
    "pruning": (PruningRecord, made.zeroed().record),
    "removal": (PruningRecord, made.removed().record),
    "bench": (BenchResult, made.measurements()[0].result),
    "sweep": (SweepResult, made.sweep()),
    "generations": (Generations, made.generations()),
    "run": (RunRecord, RUN),
}


def fitting(content: object) -> object:
    """With a digest that fits, so that what is fuzzed is read and not only compared."""
    return with_digest(content) if isinstance(content, dict) else content


def written(one) -> dict:
    return json.loads(json.dumps(one.model_dump(mode="json", warnings=False)))


@pytest.mark.parametrize("name", RECORDS)
@fuzzed(2)
@given(chooser=choosers)
def test_an_artifact(name, chooser, tmp_path):
    kind, one = RECORDS[name]
    content = dumped(fitting(changed(written(one), chooser)))
    path = tmp_path / "artifact.json"
    path.write_bytes(chooser.choice([content, content, damaged(content, chooser)]))
    works_or_says(partial(kind.read, path))


@pytest.mark.parametrize("name", ["pruning", "removal"])
@fuzzed(2)
@given(chooser=choosers)
def test_whatever_record_is_read_has_a_card_in_which_its_texts_are_text(name, chooser, tmp_path):
    kind, one = RECORDS[name]
    path = tmp_path / "llmprune.json"
    path.write_bytes(dumped(fitting(changed(written(one), chooser))))
    record = works_or_says(partial(kind.read, path))
    if record is not None:
        card = model_card(CardFacts(record, results=(made.measurements()[0].result,)))
        assert "\x1b" not in card
        _, data, body = card.split("---\n", 2)
        assert yaml.safe_load(data)["model-index"]
        assert "<script>" not in body.replace("`<script>`", "").replace("\n<script>\n", "")  # code


@fuzzed()
@given(chooser=choosers, name=st.sampled_from(["importance", "calibration", "bench", "sweep", "generations"]))
def test_whatever_artifact_is_read_has_a_page(chooser, name, tmp_path):
    kind, one = RECORDS[name]
    path = tmp_path / "artifact.json"
    path.write_bytes(dumped(fitting(changed(written(one), chooser))))
    read = works_or_says(partial(kind.read, path))
    if read is None:
        return
    held = {"bench": {"measurements": (Measurement("bench/1.json", read),)}}.get(name, {name: read})
    contents = made.contents(**held)
    sections = report_sections(contents)
    drawn = {chart.name: Drawn("<svg></svg>", "<svg></svg>") for one in sections for chart in one.charts}
    page = render_page(contents, sections, drawn, made="today", version="0")
    assert page.count("<script>") == 1
