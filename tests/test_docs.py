"""Pages that are made from the code are as the code says."""

import runpy
from pathlib import Path

from llmprune.artifacts.bench_result import BenchResult
from llmprune.stages.bench_metrics import MEANINGS, metric_names

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_of_the_bench_schema_is_up_to_date():
    page = runpy.run_path(str(DOCS / "bench_schema.py"))["page"]()
    assert (DOCS / "bench-schema.md").read_text(encoding="utf-8") == page, "type: make docs"
    for part in ("ModelResult", "GateCheck", "CorpusIdentity", f"schema {BenchResult.SCHEMA}"):
        assert part in page


def test_every_metric_is_explained():
    names = metric_names(texts=["t"], tasks=[("piqa", "acc")], batch=[8], energy=True, compared=True)
    figures = {name.split(".")[0].removesuffix("_ratio").removesuffix("_diff") for name in names}
    assert figures == set(MEANINGS)
