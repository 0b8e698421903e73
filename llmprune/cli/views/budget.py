"""How a model pruned to a budget is shown: beside the dense one and the two nearest alternatives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmprune.cli.console import Console
from llmprune.spelling import as_options

if TYPE_CHECKING:
    from llmprune.stages.budget_pruning import BudgetReport


def show_budget(console: Console, report: BudgetReport) -> None:
    """The table, and where the chosen model is."""
    from llmprune.report.budget_text import budget_remarks, budget_table

    console.table(report.result.model.name, *budget_table(report.result))
    for line in budget_remarks(report.result):
        console.line(as_options(line))
    check = report.record.verification
    verified = "Not verified (--no-verify)." if check is None else f"Verified in {check.dtype}."
    console.line(f"{verified} Written to {report.directory}")
