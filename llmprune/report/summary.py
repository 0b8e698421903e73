"""The head of the page: what was done, and the figures that a reader looks for first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.figures import Reading, figures
from llmprune.report.figures import Row, newest_rows
from llmprune.report.wording import TIMES, comparison, label_of, spelled

if TYPE_CHECKING:
    from llmprune.report.contents import RunContents
    from llmprune.report.theme import Role

_ORDER = ("perplexity", "accuracy", "agreement", "generation", "prompt")  # kinds of quality, keys of speed
_ARROW = "\N{RIGHTWARDS ARROW}"


@dataclass(frozen=True)
class Tile:
    """A headline figure.

    Attributes:
        label: what was measured.
        value: the dense model's value and the pruned one's; of their agreement the one there is.
        remark: their ratio or difference, with its interval.
    """

    label: str
    value: str
    remark: str


@dataclass(frozen=True)
class Headline:
    """One pruned model.

    Attributes:
        label: what was done to it.
        role: what was done to it, as a colour.
        name: the name of its directory.
        tiles: its figures.
    """

    label: str
    role: Role
    name: str
    tiles: tuple[Tile, ...]


def headlines(contents: RunContents) -> list[Headline]:
    """A headline for every model that was measured beside a baseline, newest first."""
    compared = [one for one in reversed(contents.results) if one.baseline is not None]
    return [
        Headline(label_of(contents, name), contents.role_of(name), name, tuple(_tiles(compared, name)))
        for name in dict.fromkeys(one.model.name for one in compared)
    ]


def _tiles(results: list[BenchResult], name: str) -> Iterator[Tile]:
    """Sizes, then for each entry of ``_ORDER`` the first figure of the newest result that has one."""
    own = [one for one in results if one.model.name == name]
    yield from _sizes(own[0])
    for sort in _ORDER:
        rows = (row for one in own for row in newest_rows([one]) if sort in _sorts(row))
        yield from map(_tile, islice(rows, 1))


def _sorts(row: Row) -> tuple[str, str]:
    return row.figure.quantity.kind, row.figure.quantity.key


def _sizes(result: BenchResult) -> Iterator[Tile]:
    """What was counted, where pruning changed it."""
    counted = {one.quantity.key: one.readings for one in figures(result) if one.quantity.kind == "count"}
    dense, pruned = counted["params"]
    _, kept = counted["effective_params"]
    if pruned.value < dense.value:
        yield Tile("parameters", *_fewer(dense, pruned))
    if kept.value < 0.99 * pruned.value:
        value, ratio = _fewer(dense, kept)
        yield Tile("weights that are not zero", value, f"{ratio}, stored all the same")


def _fewer(dense: Reading, pruned: Reading) -> tuple[str, str]:
    """``8.0M -> 6.5M``, and the ratio."""
    change = f"{_millions(dense.value)} {_ARROW} {_millions(pruned.value)}"
    return change, f"{TIMES} {pruned.value / dense.value:.3f}"


def _tile(row: Row) -> Tile:
    value = f" {_ARROW} ".join(spelled(one.quantity.kind, one.value) for one in row.figure.readings)
    return Tile(row.figure.label(), value, comparison(row.figure))


def _millions(count: float) -> str:
    return f"{count / 1e9:,.2f}B" if count >= 1e9 else f"{count / 1e6:,.1f}M" if count >= 1e6 else f"{count:,.0f}"
