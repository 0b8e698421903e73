"""The figures of all benchmarks of a run, one row for each: a pruned model beside the dense one under one protocol."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llmprune.artifacts.records.agreement import AgreementProtocol
from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.figures import Figure, figures
from llmprune.artifacts.records.protocols import PerplexityProtocol, SpeedProtocol, TaskProtocol
from llmprune.report.wording import accuracy_protocol, perplexity_protocol, speed_protocol


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        figure: both models' values, and their comparison.
        protocol: how it was measured. Only figures of one protocol compare.
        model: name of the model that was asked for.
        baseline: name of the model beside it; None: there was none.
    """

    figure: Figure
    protocol: str
    model: str
    baseline: str | None


def newest_rows(results: Iterable[BenchResult]) -> list[Row]:
    """The newest row of every figure, protocol and pair of models, in the order in which they first came.

    Args:
        results: oldest first.
    """
    found: dict[tuple[str, ...], Row] = {}
    for result in results:
        for row in _rows(result):
            found[row.figure.label(), row.protocol, row.model, row.baseline or ""] = row
    return list(found.values())


def _rows(result: BenchResult) -> list[Row]:
    """All figures but counts, which have their own table, and the time to load, which was measured once."""
    baseline = result.baseline.name if result.baseline else None
    return [
        Row(figure, protocol, result.model.name, baseline)
        for figure in figures(result)
        if figure.quantity.kind != "count" and (protocol := _protocol(result, figure)) is not None
    ]


def _protocol(result: BenchResult, figure: Figure) -> str | None:
    match figure.protocol:
        case PerplexityProtocol():
            return perplexity_protocol(figure.protocol, result.dtype)
        case TaskProtocol():
            return accuracy_protocol(figure.protocol, figure.model, result.dtype)
        case SpeedProtocol():
            return speed_protocol(figure.protocol, result)
        case AgreementProtocol():
            return f"{figure.protocol}, {result.dtype}"
        case None:
            return None
