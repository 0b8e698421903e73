"""How a benchmark is shown: one table, and below it the protocols and remarks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmprune.cli.console import Console
from llmprune.spelling import as_options

if TYPE_CHECKING:
    from llmprune.artifacts.records.bench import BenchResult


def show_bench(console: Console, result: BenchResult) -> None:
    """Dense and pruned beside each other with their ratio, and how they were measured."""
    from llmprune.report.bench_text import bench_remarks, bench_table

    console.table(result.model.name, *bench_table(result))
    for line in bench_remarks(result):
        console.line(as_options(line))
