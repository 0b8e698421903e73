"""What weight_pruning.py measured, as Markdown: methods down, patterns across, the texts side by side in a cell.

python benchmarks/weight_pruning_table.py benchmarks/weight_pruning.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

Row = dict[str, object]


def tables(known: dict[str, dict[str, Row]]) -> Iterator[str]:
    """Perplexity of all blocks and of their first half; seconds and peak memory of the commands."""
    rows = known["rows"]
    yield f"Perplexity on {' / '.join(rows['dense']['perplexity'])}; the dense model: {_perplexity(rows['dense'])}."
    names = [name.split(" ", 2) for name in rows if name != "dense"]
    for layers, title in (("all", "all blocks"), ("first-half", "first half of the blocks")):
        halves = {} if layers == "all" else _first_halves(rows)
        found = halves | {
            (pattern, row): rows[f"{where} {pattern} {row}"] for where, pattern, row in names if where == layers
        }
        yield _table(title, found, _perplexity)
    measured = {(pattern, row): rows[f"all {pattern} {row}"] for where, pattern, row in names if where == "all"}
    yield _table("seconds / peak MB, all blocks", measured, lambda row: f"{row['seconds']:.0f} / {row['peak_mb']:,.0f}")


def _first_halves(rows: dict[str, Row]) -> dict[tuple[str, str], Row]:
    """Of rows of all blocks, what their first half alone gave."""
    return {
        tuple(name.split(" ", 2)[1:]): {"perplexity": row["first_half_perplexity"]}
        for name, row in rows.items()
        if "first_half_perplexity" in row
    }


def _perplexity(row: Row) -> str:
    return " / ".join(_short(value) for value in row["perplexity"].values())


def _short(value: float) -> str:
    return (
        f"{value:.2f}"
        if value < 100
        else f"{value:.1f}"
        if value < 1000
        else f"{value:,.0f}"
        if value < 1e6
        else f"{value:.1e}"
    )


def _table(title: str, found: dict[tuple[str, str], Row], shown: Callable[[Row], str]) -> str:
    patterns, methods = (_in_order(names) for names in zip(*found, strict=True))
    lines = [f"| {title} | {' | '.join(patterns)} |", f"|---|{'---:|' * len(patterns)}"]
    for method in methods:
        cells = (shown(found[pattern, method]) if (pattern, method) in found else "" for pattern in patterns)
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _in_order(names: Iterable[str]) -> list[str]:
    return sorted(set(names), key=lambda name: (":" in name, name))


if __name__ == "__main__":
    print("\n\n".join(tables(json.loads(Path(sys.argv[1]).read_text()))))
