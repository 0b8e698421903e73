"""A model pruned to a budget as text: the chosen one among the dense model and the nearest alternatives."""

from __future__ import annotations

from llmprune.artifacts.records.budget import BudgetResult
from llmprune.artifacts.records.sweep import SweepPoint
from llmprune.report.bench_text import spell_ratio


def budget_table(result: BudgetResult) -> tuple[list[str], list[list[str]]]:
    """Header and rows, the largest model first."""
    assert result.dense is not None, "the dense model is measured first"
    texts = [protocol.corpus.name for protocol in result.measuring.perplexity]
    timed = result.measuring.speed is not None
    header = ["", "parameters", "share", *(f"ppl {name}" for name in texts), "ratio", *(["speed"] if timed else [])]
    names = sorted({*result.beside, _chosen(result)}, key=lambda name: -_found(result, name).params)
    rows = [_row("dense", result.dense, result, texts, timed=timed)]
    rows += [_row(_title(result, name), _found(result, name), result, texts, timed=timed) for name in names]
    return header, rows


def budget_remarks(result: BudgetResult) -> list[str]:
    """What the table does not say."""
    chosen = _found(result, _chosen(result))
    blocks = ", ".join(map(str, sorted(chosen.removed)))
    remarks = [f"Without blocks {blocks}; what is left is healed (`heal=all`)."] if chosen.removed else []
    shown = {name: result.losses[name] for name in (_chosen(result), *result.beside) if name in result.losses}
    if _chosen(result) in shown and len(shown) > 1:  # those of earlier budgets are kept as well
        losses = ", ".join(f"{name} {loss:.4f}" for name, loss in sorted(shown.items(), key=lambda one: one[1]))
        remarks.append(f"Compared on calibration windows that healing held back, in nats/token: {losses}.")
    speed = chosen.metrics.get("generation_ratio")
    if result.speed_up is not None and speed is not None and speed.value < result.speed_up:
        remarks.append(
            f"Measured, it generates {spell_ratio(speed)} times as fast, which is less than the {result.speed_up:g} "
            "that the times of its parts promised: ask for more where that matters."
        )
    if command := next(iter(chosen.commands), None):
        remarks.append(f"To make it again: {command}")
    return remarks


def _chosen(result: BudgetResult) -> str:
    assert result.chosen is not None, "what is shown is finished"
    return result.chosen


def _found(result: BudgetResult, name: str) -> SweepPoint:
    point = result.point(name)
    assert point is not None, "everything that is shown was measured"
    return point


def _title(result: BudgetResult, name: str) -> str:
    return f"{name} (chosen)" if name == result.chosen else name


def _row(title: str, point: SweepPoint, result: BudgetResult, texts: list[str], *, timed: bool) -> list[str]:
    speed = point.metrics.get("generation_ratio")
    return [
        title,
        f"{point.params:,.0f}",
        f"{point.params / result.model.num_parameters:.1%}",
        *(f"{point.metrics[f'ppl.{name}'].value:,.2f}" for name in texts),
        f"{point.ppl_ratio.value:.3f}",
        *([spell_ratio(speed) if speed is not None else "1"] if timed else []),
    ]
