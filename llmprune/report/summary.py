"""The head of the page: what was done, and the few figures that a reader looks for first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from llmprune.artifacts.records.bench import BenchResult, Estimate
from llmprune.report.figures import Kind, Row, newest_rows
from llmprune.report.wording import TIMES, interval, label_of, spelled

if TYPE_CHECKING:
    from llmprune.report.contents import RunContents
    from llmprune.report.theme import Role

_KINDS: tuple[Kind, ...] = ("perplexity", "accuracy", "generation", "prompt")
_ARROW = "\N{RIGHTWARDS ARROW}"


@dataclass(frozen=True)
class Tile:
    """A headline figure.

    Attributes:
        label: what it is.
        value: dense to pruned.
        remark: their ratio or difference, and how well it is known.
    """

    label: str
    value: str
    remark: str


@dataclass(frozen=True)
class Headline:
    """One pruned model.

    Attributes:
        label: what was done to it.
        role: the same, as a colour.
        name: of its directory.
        tiles: its figures.
    """

    label: str
    role: Role
    name: str
    tiles: tuple[Tile, ...]


def headlines(contents: RunContents) -> list[Headline]:
    """A headline for every model that was measured beside a baseline, the newest first."""
    compared = [one for one in reversed(contents.results) if one.baseline is not None]
    return [
        Headline(label_of(contents, name), contents.role_of(name), name, tuple(_tiles(compared, name)))
        for name in dict.fromkeys(one.model.name for one in compared)
    ]


def _tiles(results: list[BenchResult], name: str) -> Iterator[Tile]:
    """Sizes, and of each kind the first figure of the newest result that has one."""
    own = [one for one in results if one.model.name == name]
    yield from _sizes(own[0])
    for kind in _KINDS:
        rows = (row for one in own for row in newest_rows([one]) if row.kind == kind)
        yield from map(_tile, islice(rows, 1))


def _sizes(result: BenchResult) -> Iterator[Tile]:
    dense, pruned = result.baseline, result.model
    assert dense is not None
    zeros = pruned.sparsity.zeros if pruned.sparsity else 0
    if pruned.num_parameters < dense.num_parameters:
        value = f"{_millions(dense.num_parameters)} {_ARROW} {_millions(pruned.num_parameters)}"
        yield Tile("parameters", value, f"{TIMES} {pruned.num_parameters / dense.num_parameters:.3f}")
    if zeros > pruned.num_parameters / 100:
        kept = pruned.num_parameters - zeros
        value = f"{_millions(dense.num_parameters)} {_ARROW} {_millions(kept)}"
        yield Tile(
            "weights that are not zero", value, f"{TIMES} {kept / dense.num_parameters:.3f}, stored all the same"
        )


def _tile(row: Row) -> Tile:
    assert row.other is not None
    value = f"{spelled(row.kind, row.other.value)} {_ARROW} {spelled(row.kind, row.own.value)}"
    return Tile(row.what, value, _against(row.kind, row.against) if row.against else "")


def _against(kind: Kind, against: Estimate) -> str:
    sign = "+" if kind == "accuracy" else ""
    text = interval(against, lambda value: f"{value:{sign}.3f}")
    return text if sign else f"{TIMES} {text}"


def _millions(count: int) -> str:
    return f"{count / 1e9:,.2f}B" if count >= 1e9 else f"{count / 1e6:,.1f}M" if count >= 1e6 else f"{count:,}"
