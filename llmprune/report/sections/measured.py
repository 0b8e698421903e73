"""What pruning costs and saves: perplexity, accuracy and speed, every figure with its protocol."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from llmprune.artifacts.records.bench import ModelResult
from llmprune.artifacts.records.command_line import spell_command
from llmprune.artifacts.records.figures import Figure, Reading, only_choices, readings
from llmprune.artifacts.records.quantities import QUANTITIES
from llmprune.report.charts.measured import Bar, Panel, draw_panels
from llmprune.report.figures import Row, newest_rows
from llmprune.report.parts import Cell, Chart, Missing, Section, Table
from llmprune.report.wording import ONLY_CHOICES, TIMES, comparison, label_of, model_cell, shortened, spelled, value_of

if TYPE_CHECKING:
    from llmprune.report.contents import RunContents

_TITLE = 32  # characters of a panel's title that there is room for
_SIZES = {"blocks": ",.0f", "params": ",.0f", "effective_params": ",.0f", "bytes": ",.1f", "peak_bytes": ",.0f"}
_ZEROS = 0.01  # a smaller share of zeros comes from rounding


def measured_section(contents: RunContents) -> Section:
    """Charts of perplexity, accuracy and speed, and one table of all figures."""
    title = "What it costs and what it buys"
    rows = newest_rows(contents.results)
    if not rows:
        return Section("measured", title, missing=(Missing("Nothing was measured in this run yet.", "llmprune bench"),))
    numbers = _numbered(rows)
    quality = [row for row in rows if row.figure.quantity.kind in {"perplexity", "accuracy", "agreement"}]
    speed = [row for row in rows if row.figure.quantity.key in {"generation", "prompt"}]
    charts, missing = [], []
    if quality:
        charts.append(_quality_chart(contents, quality, numbers))
    else:
        missing.append(Missing("Perplexity was not measured.", "llmprune bench --no-speed"))
    if speed:
        charts.append(_speed_chart(contents, speed, numbers))
    else:
        missing.append(Missing("Speed was not measured.", "llmprune bench --no-ppl"))
    if only_choices(contents.results):
        missing.append(Missing(ONLY_CHOICES, "llmprune bench --tasks gsm8k"))
    missing += _unmeasured(contents, {row.model for row in rows})
    return Section(
        "measured",
        title,
        lead=tuple(_about_zeros(contents)),
        missing=tuple(missing),
        charts=tuple(charts),
        tables=(_figures_table(contents, rows, numbers), _protocols_table(numbers), _sizes_table(contents)),
    )


def _unmeasured(contents: RunContents, known: set[str]) -> Iterator[Missing]:
    """Checkpoints of the run that no benchmark measured."""
    for one in contents.checkpoints:
        if one.name not in known:
            what = f"{label_of(contents, one.name)} ({one.name}) was not measured."
            yield Missing(what, spell_command("bench", f"{contents.run}/{one.name}"))


def _quality_chart(contents: RunContents, rows: list[Row], numbers: dict[str, int]) -> Chart:
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.figure.label(), row.protocol, row.baseline or ""), []).append(row)
    panels = [_panel(contents, group, numbers) for group in groups.values()]
    return Chart(
        "quality",
        "Quality, dense and pruned",
        "Each panel is one text or task under one protocol (P1, ...: see the table of protocols). Figures of different "
        "panels do not compare. Lines are 95% intervals, over windows of text for a perplexity, over items for an "
        "accuracy and over prompts for greedy agreement. All models get the same windows, items and prompts, so their "
        "ratio is known better than these intervals suggest: see the table.",
        partial(draw_panels, panels),
    )


def _speed_chart(contents: RunContents, rows: list[Row], numbers: dict[str, int]) -> Chart:
    panels = [_panel(contents, [row], numbers) for row in rows]
    return Chart(
        "speed",
        "Speed, dense and pruned",
        "Medians of repeats in which the models take turns. Lines go from the smallest to the largest repeat. Each "
        "panel is one session: the dense model was timed again beside each pruned one.",
        partial(draw_panels, panels),
    )


def _panel(contents: RunContents, rows: list[Row], numbers: dict[str, int]) -> Panel:
    """The newest figure of the dense model, and those of all pruned ones."""
    newest = rows[-1]
    bars = [_bar(contents, row.model, row.figure.model, row.figure) for row in rows]
    if newest.baseline is not None and newest.figure.baseline is not None:
        bars.insert(0, _bar(contents, newest.baseline, newest.figure.baseline, None))
    return Panel(f"{shortened(newest.figure.label(), _TITLE)} (P{numbers[newest.protocol]})", tuple(bars))


def _bar(contents: RunContents, name: str, found: Reading, compared: Figure | None) -> Bar:
    text = spelled(found.quantity.kind, found.value)
    if compared is not None and compared.against is not None and compared.is_clear:
        against = compared.against.value
        text += f"  ({against:+.3f})" if found.quantity.kind == "accuracy" else f"  ({TIMES} {against:.2f})"
    return Bar(label_of(contents, name), contents.role_of(name), found.value, found.interval, text)


def _figures_table(contents: RunContents, rows: list[Row], numbers: dict[str, int]) -> Table:
    cells = tuple(
        (
            Cell(row.figure.label()),
            model_cell(contents, row.model),
            _value_cell(row.figure.baseline),
            _value_cell(row.figure.model),
            _comparison_cell(row.figure),
            Cell(f"P{numbers[row.protocol]}", numbers[row.protocol]),
        )
        for row in rows
    )
    columns = ("figure", "model", "dense", "pruned", "pruned against dense", "protocol")
    return Table("Every figure, with 95% intervals (speed: smallest to largest repeat)", columns, cells)


def _protocols_table(numbers: dict[str, int]) -> Table:
    cells = tuple((Cell(f"P{number}", number), Cell(protocol)) for protocol, number in numbers.items())
    return Table("Protocols", ("protocol", "how it was measured"), cells)


def _numbered(rows: list[Row]) -> dict[str, int]:
    """Protocols, and their numbers on the page."""
    return {protocol: number for number, protocol in enumerate(dict.fromkeys(row.protocol for row in rows), start=1)}


def _value_cell(one: Reading | None) -> Cell:
    return Cell(value_of(one), one.value) if one else Cell("")


def _comparison_cell(figure: Figure) -> Cell:
    return Cell(comparison(figure), figure.against.value if figure.against and figure.is_clear else None)


def _sizes_table(contents: RunContents) -> Table:
    newest: dict[str, ModelResult] = {}
    for result in contents.results:
        newest |= {found.name: found for found in (result.baseline, result.model) if found is not None}
    rows = []
    for name, one in newest.items():
        counted = {found.quantity.key: found for found in readings(one)}
        cells = (_size_cell(counted.get(key), spelling) for key, spelling in _SIZES.items())
        rows.append((model_cell(contents, name), *cells))
    columns = ("model", *(QUANTITIES[key].label for key in _SIZES))
    return Table("Sizes, counted in the files", columns, tuple(rows))


def _size_cell(one: Reading | None, spelling: str) -> Cell:
    return Cell(format(one.shown, spelling), one.value) if one else Cell("")


def _about_zeros(contents: RunContents) -> Iterator[str]:
    sparse = [
        one.model.name
        for one in contents.results
        if one.model.sparsity is not None and one.model.sparsity.ratio >= _ZEROS
    ]
    if sparse:
        names = ", ".join(dict.fromkeys(label_of(contents, name) for name in sparse))
        yield (
            f"Zeros in weights ({names}) save no time and no memory here. They are stored and multiplied like any "
            "other number. Only kernels made for zeros can skip them."
        )
