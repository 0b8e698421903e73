"""How the whole chain's result is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmprune.cli.console import Console
from llmprune.cli.views.bench import show_bench

if TYPE_CHECKING:
    from llmprune.stages.quickstart import QuickstartReport


def show_quickstart(console: Console, report: QuickstartReport) -> None:
    """The benchmark, and what the dense and the pruned model write."""
    show_bench(console, report.result)
    for name, text in zip(("dense", "pruned"), report.generations, strict=True):
        console.line(f"\nThe {name} model writes: {text}")
