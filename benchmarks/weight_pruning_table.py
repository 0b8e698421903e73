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
Cells = dict[tuple[str, str], Row]  # by pattern and method, or by pattern and figure
PARTS = "all", "first-half"
HALF = "first_half_perplexity"


def tables(known: dict[str, dict[str, Row]]) -> Iterator[str]:
    """Perplexity of all blocks and of their first half, what the commands cost, SparseLLM as a part of SparseGPT."""
    rows = known["rows"]
    yield f"Perplexity on {' / '.join(rows['dense']['perplexity'])}; the dense model: {_perplexity(rows['dense'])}."
    whole, half = ({_key(name): row for name, row in rows.items() if name.startswith(f"{part} ")} for part in PARTS)
    half |= {key: {"perplexity": row[HALF]} for key, row in whole.items() if HALF in row}
    every: list[tuple[str, Cells, Callable[[Row], str]]] = [
        ("all blocks", whole, _perplexity),
        ("first half of the blocks", half, _perplexity),
        ("seconds / peak MB, all blocks", whole, lambda row: f"{row['seconds']:.0f} / {row['peak_mb']:,.0f}"),
        ("sparsellm / sparsegpt, all blocks", _ratios(whole), lambda row: f"{row['ratio']:.2f}"),
    ]
    yield from (_table(title, found, shown) for title, found, shown in every if found)


def _key(name: str) -> tuple[str, str]:
    """Pattern and method of a row's name."""
    _, pattern, method = name.split(" ", 2)
    return pattern, method


def _perplexity(row: Row) -> str:
    return " / ".join(_short(value) for value in row["perplexity"].values())


def _short(value: float) -> str:
    digits = 2 if value < 100 else 1 if value < 1000 else 0
    return f"{value:,.{digits}f}" if value < 1e6 else f"{value:.1e}"


def _table(title: str, found: Cells, shown: Callable[[Row], str]) -> str:
    patterns, methods = (_in_order(key[place] for key in found) for place in (0, 1))
    lines = [f"| {title} | {' | '.join(patterns)} |", f"|---|{'---:|' * len(patterns)}"]
    for method in methods:
        cells = (shown(found[pattern, method]) if (pattern, method) in found else "" for pattern in patterns)
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _ratios(found: Cells) -> Cells:
    """What SparseLLM makes of SparseGPT's perplexity and seconds, both by the papers' protocol."""
    ratios: Cells = {}
    for pattern, method in found:
        if method == "sparsellm" and (pattern, "sparsegpt") in found:
            ours, theirs = (_figures(found[pattern, name]) for name in ("sparsellm", "sparsegpt"))
            ratios |= {(pattern, figure): {"ratio": ours[figure] / theirs[figure]} for figure in ours}
    return ratios


def _figures(row: Row) -> dict[str, float]:
    return {f"perplexity, {text}": value for text, value in row["perplexity"].items()} | {"seconds": row["seconds"]}


def _in_order(names: Iterable[str]) -> list[str]:
    return sorted(set(names), key=lambda name: (":" in name, name))


if __name__ == "__main__":
    print("\n\n".join(tables(json.loads(Path(sys.argv[1]).read_text()))))
