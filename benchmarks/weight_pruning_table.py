"""What weight_pruning.py measured, as Markdown: methods down, patterns across, the texts side by side in a cell.

    python benchmarks/weight_pruning_table.py benchmarks/weight_pruning.json

Cells are empty where a row has not been measured.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]
PARTS = "all", "first-half"
HALF = "first_half_perplexity"


def tables(known: dict[str, dict[str, Row]]) -> Iterator[str]:
    """Perplexity of all blocks and of their first half; seconds and peak memory of the commands."""
    rows = known["rows"]
    yield f"Perplexity on {' / '.join(rows['dense']['perplexity'])}; the dense model: {_perplexity(rows['dense'])}."
    whole, half = ({_key(name): row for name, row in rows.items() if name.startswith(f"{part} ")} for part in PARTS)
    half |= {key: {"perplexity": row[HALF]} for key, row in whole.items() if HALF in row}
    yield _table("all blocks", whole, _perplexity)
    yield _table("first half of the blocks", half, _perplexity)
    yield _table("seconds / peak MB, all blocks", whole, lambda row: f"{row['seconds']:.0f} / {row['peak_mb']:,.0f}")


def _key(name: str) -> tuple[str, str]:
    """Pattern and method of a row's name."""
    _, pattern, method = name.split(" ", 2)
    return pattern, method


def _perplexity(row: Row) -> str:
    return " / ".join(_short(value) for value in row["perplexity"].values())


def _short(value: float) -> str:
    digits = 2 if value < 100 else 1 if value < 1000 else 0
    return f"{value:,.{digits}f}" if value < 1e6 else f"{value:.1e}"


def _table(title: str, found: dict[tuple[str, str], Row], shown: Callable[[Row], str]) -> str:
    patterns, methods = (_in_order(key[place] for key in found) for place in (0, 1))
    lines = [f"| {title} | {' | '.join(patterns)} |", f"|---|{'---:|' * len(patterns)}"]
    for method in methods:
        cells = (shown(found[pattern, method]) if (pattern, method) in found else "" for pattern in patterns)
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _in_order(names: Iterable[str]) -> list[str]:
    return sorted(set(names), key=lambda name: (":" in name, name))


if __name__ == "__main__":
    print("\n\n".join(tables(json.loads(Path(sys.argv[1]).read_text()))))
