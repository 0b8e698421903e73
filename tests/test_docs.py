"""Pages that are made from the code are as the code says."""

import json
import re
import runpy
from pathlib import Path

from typer.main import get_command

from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.quantities import QUANTITIES
from llmprune.cli.app import app
from llmprune.stages.benchmark.metrics import metric_names

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def test_the_page_of_the_bench_schema_is_up_to_date():
    page = runpy.run_path(str(DOCS / "bench_schema.py"))["page"]()
    assert (DOCS / "bench-schema.md").read_text(encoding="utf-8") == page, "type: make docs"
    for part in ("ModelResult", "GateCheck", "CorpusIdentity", f"schema {BenchResult.SCHEMA}"):
        assert part in page


def test_the_page_of_the_commands_is_up_to_date():
    page = runpy.run_path(str(DOCS / "command_reference.py"))["page"]()
    assert (DOCS / "commands.md").read_text(encoding="utf-8") == page, "type: make docs"
    for name, command in get_command(app).commands.items():
        section = page.partition(f"## llmprune {name}\n")[2].partition("\n## ")[0]
        assert all(f"`{option}`" in section for param in command.params for option in _typed(param))


def _typed(param):
    return [*param.opts, *param.secondary_opts] if param.param_type_name == "option" else [param.metavar]


def test_every_metric_is_explained():
    names = metric_names(
        texts=["t"],
        tasks=[("piqa", "acc")],
        batch=[8],
        repeats=2,
        energy=True,
        loaded=True,
        compared=True,
        agreement=True,
        draft=True,
    )
    figures = {name.split(".")[0].removesuffix("_ratio").removesuffix("_diff") for name in names} - {"piqa_drop"}
    assert figures == set(QUANTITIES)


def test_the_tables_of_weight_pruning_are_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from weight_pruning_table import tables

    _, *every = tables(json.loads((ROOT / "benchmarks" / "weight_pruning.json").read_text(encoding="utf-8")))
    results = (DOCS / "results.md").read_text(encoding="utf-8")
    assert len(every) == 4 and all(table in results for table in every)


def test_no_page_shows_an_import_that_is_no_interface():
    """Files may move: only `llmprune`, its errors and `llmprune.algorithms` are promised (docs/python.md)."""
    pages = [ROOT / "README.md", *DOCS.glob("*.md")]
    deep = re.compile(r"(from |import |`)llmprune\.(?!(algorithms|errors)\b)[a-z_]+\.")
    assert not [(page.name, found[0]) for page in pages for found in deep.finditer(page.read_text(encoding="utf-8"))]


def test_the_tables_of_experts_and_healing_are_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import experts

    known, healed = (
        json.loads((ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("experts", "healing")
    )
    assert experts.table(known) in (DOCS / "experts.md").read_text(encoding="utf-8")
    page = (DOCS / "healing.md").read_text(encoding="utf-8")
    for way in ("cut", "all"):
        row = healed["rows"][f"20% {way}"]
        first, second = (f"{value:.2f}" for value in row["perplexity"].values())
        cells = next(line for line in page.splitlines() if line.startswith(f"| `--heal {way}` |")).split(" | ")
        assert (cells[1], cells[3], cells[5].rstrip(" |")) == (first, second, f"{row['agreement']:.1%}")
