"""Pages that are made from the code are as the code says."""

import json
import runpy
from pathlib import Path

from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.figures import QUANTITIES
from llmprune.stages.benchmark.metrics import metric_names

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def test_the_page_of_the_bench_schema_is_up_to_date():
    page = runpy.run_path(str(DOCS / "bench_schema.py"))["page"]()
    assert (DOCS / "bench-schema.md").read_text(encoding="utf-8") == page, "type: make docs"
    for part in ("ModelResult", "GateCheck", "CorpusIdentity", f"schema {BenchResult.SCHEMA}"):
        assert part in page


def test_every_metric_is_explained():
    names = metric_names(texts=["t"], tasks=[("piqa", "acc")], batch=[8], repeats=2, energy=True, compared=True)
    figures = {name.split(".")[0].removesuffix("_ratio").removesuffix("_diff") for name in names}
    assert figures == set(QUANTITIES)


def test_the_tables_of_weight_pruning_are_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from weight_pruning_table import tables

    _, *every = tables(json.loads((ROOT / "benchmarks" / "weight_pruning.json").read_text(encoding="utf-8")))
    results = (DOCS / "results.md").read_text(encoding="utf-8")
    assert len(every) == 4 and all(table in results for table in every)
