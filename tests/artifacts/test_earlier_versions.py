"""What earlier versions wrote is read, or refused with what to do; fixtures/COMMIT holds what main wrote at it."""

import json
import warnings
from pathlib import Path

import pytest

from llmprune.artifacts.activations import CalibrationManifest
from llmprune.artifacts.masks.mask import read_mask
from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.expert_importance import ExpertImportance
from llmprune.artifacts.records.generations import Generations
from llmprune.artifacts.records.importance import Importance
from llmprune.artifacts.records.pruning import PruningRecord
from llmprune.artifacts.records.sweep import SweepResult
from llmprune.artifacts.records.unchecked import UncheckedWarning
from llmprune.artifacts.run import RunRecord
from llmprune.errors import ArtifactError

FIXTURES = Path(__file__).with_name("fixtures")
CLASSES = {
    kind.KIND: kind
    for kind in (
        CalibrationManifest,
        BenchResult,
        ExpertImportance,
        Generations,
        Importance,
        PruningRecord,
        SweepResult,
        RunRecord,
    )
}
RECORDS = sorted(str(path.relative_to(FIXTURES)) for path in FIXTURES.glob("*/*.json"))
# d0c7607: before several texts; 224ff5b: before looks at whole windows; f055a88: before healed candidates.
REFUSED = {"d0c7607/bench.json", "d0c7607/importance.json", "224ff5b/importance.json"}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_of_an_earlier_version_is_read_or_refused_with_what_to_do(name):
    path = FIXTURES / name
    written = json.loads(path.read_text(encoding="utf-8"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has no digest
        if name not in REFUSED:
            assert CLASSES[written["kind"]].read(path).created == written["created"]
            return
        with pytest.raises(
            ArtifactError, match=f"has schema {written['schema_version']}, but this llmprune"
        ) as refused:
            CLASSES[written["kind"]].read(path)
        assert "delete the file to make it anew" in str(refused.value)


def test_every_kind_of_artifact_has_a_fixture():
    assert {json.loads((FIXTURES / name).read_text())["kind"] for name in RECORDS} == set(CLASSES)


def test_a_mask_of_an_earlier_version_is_read():
    with pytest.warns(UncheckedWarning):
        mask = read_mask(FIXTURES / "224ff5b" / "mask.safetensors")
    assert list(mask.tensors) == ["model.layers.0.mlp.up_proj.weight"]
