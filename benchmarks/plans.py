"""What --plan says against what then happens, for every command on one model.

Each command runs twice in processes of its own: with --plan --json, then for real. Compared are the peak of resident
memory, the most disk at any time (sampled), bytes written (as the kernel counts them, and those that stay), and
seconds. Bytes read are only told: the kernel does not count those of mapped files. A command that starts others
(`remove-blocks` without a ranking) is measured with them where --fresh is typed; else each goes on from the one before.

Commands that the results file has already are not run again. The last line prints the table again; --page prints it as
docs/scaling.md has it.

    python benchmarks/plans.py MODEL --source wikitext2:wiki.train.raw --ppl wikitext2:wiki.test.raw --out plans.json
    python benchmarks/plans.py --page plans.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from results import keep_results, read_results
from watched import run_measured

ROOT = Path(__file__).parents[1]
TOLERANCE = 0.2


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--source", help="calibration text")
    parser.add_argument("--ppl", help="text for perplexity")
    parser.add_argument("--samples", default="8")
    parser.add_argument("--seq-len", default="512")
    parser.add_argument("--target", default="2", help="blocks to remove")
    parser.add_argument("--layers", default="all", help="blocks that global-prune prunes")
    parser.add_argument("--windows", default="2", help="windows for perplexity")
    parser.add_argument("--common", default="", help="options of every command, such as '--dtype bfloat16'")
    parser.add_argument("--only", default="", help="names of commands, between commas")
    parser.add_argument("--run", type=Path, help="the run directory; default: a temporary one")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", type=Path, metavar="JSON", help="print the table of a results file, and stop")
    args = parser.parse_args(words)
    if args.page is not None:
        print(table(read_results(args.page)))
        return
    with tempfile.TemporaryDirectory(prefix="plans-") as scratch:
        results = compare(args, args.run or Path(scratch) / "run")
    print(table(results))


def commands(args: argparse.Namespace, run: Path) -> dict[str, list[str]]:
    """The command lines by name, in an order in which each finds what it needs."""
    smaller, sparse = str(run / "smaller"), str(run / "sparse")
    bench = ["--ppl", args.ppl, "--ppl-seq-len", args.seq_len, "--max-windows", args.windows]
    fast = ["--sparsity", "0.5", "--method", "sparsegpt"]
    speed = ["--batch", "4", "--gen", "16", "--prompt", "16", "--prefill", args.seq_len, "--max-seconds", "0"]
    model, text = str(args.model), ["--source", args.source, "--samples", args.samples, "--seq-len", args.seq_len]
    lines = {
        "calibrate": ["calibrate", model, *text],
        "verify-redundancy": ["verify-redundancy", "--target", args.target],
        "remove-blocks": ["remove-blocks", "--target", args.target, "--out", smaller],
        "heal": ["heal", smaller],
        "global-prune sparsegpt": ["global-prune", *fast, "--layers", args.layers, "--out", sparse],
        "global-prune": ["global-prune", "--layers", args.layers],
        "apply-mask": ["apply-mask", model, sparse],
        "remove-experts": ["remove-experts"],
        "bench --no-speed": ["bench", smaller, *bench, "--no-speed"],
        "bench": ["bench", smaller, *bench, *speed],
        "sweep": ["sweep", "--targets", args.target, *fast, *bench, "--no-speed"],
        "report": ["report", "--prompt", "The sea is"],
        "push": ["push", smaller, "owner/name", "--dry-run"],
    }
    if not json.loads((args.model / "config.json").read_text(encoding="utf-8")).keys() & _EXPERTS:
        del lines["remove-experts"]
    wanted = [name for name in args.only.split(",") if name] or list(lines)
    return {name: [*lines[name], *args.common.split(), "--run", str(run)] for name in wanted}


_EXPERTS = {"num_experts", "num_local_experts", "n_routed_experts"}


def compare(args: argparse.Namespace, run: Path) -> dict[str, Any]:
    """Plan and run every command; the results as the file has them."""
    results = read_results(args.out, {"model": args.model.name, "rows": {}})
    for name, words in commands(args, run).items():
        if name in results["rows"]:
            continue
        planned, planning = json.loads(measured([*words, "--plan", "--json"], run)["stdout"]), time.monotonic()
        found = measured([*words, "--json"], run)
        results["rows"][name] = {"planned": planned["total"], "found": {**found, "stdout": None}}
        print(f"{name}: {time.monotonic() - planning:.0f} s", file=sys.stderr)
        keep_results(args.out, results)
    return results


def measured(words: list[str], run: Path) -> dict[str, Any]:
    """Run a command in a process of its own: its output, peak memory, disk, bytes written and seconds."""
    before, environment = occupied(run), {"PYTHONPATH": str(ROOT), **os.environ}
    disk = Disk(run, before)
    try:
        took = run_measured([sys.executable, "-m", "llmprune", *words], environment)
    finally:
        most = disk.stop()
    kept = occupied(run) - before
    return {
        "stdout": took.output,
        "host": took.peak_bytes,
        "disk": max(most, kept),
        "kept": kept,
        "written": took.bytes_written,
        "seconds": took.seconds,
    }


class Disk:
    """Watches how much more a folder takes than before."""

    def __init__(self, folder: Path, before: int) -> None:
        self._folder, self._before, self._most = folder, before, 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self._most = max(self._most, occupied(self._folder) - self._before)

    def stop(self) -> int:
        """The most bytes that were seen."""
        self._done.set()
        self._thread.join()
        return self._most


def occupied(folder: Path) -> int:
    """Bytes of all files under a folder."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size  # noqa: PTH118 - it may be gone
            except FileNotFoundError:
                continue
    return total


def table(results: dict[str, Any]) -> str:
    """Plan, what happened, and their ratio, command by command."""
    columns = {"memory": ("host", 1e9, "GB"), "disk": ("disk", 1e9, "GB"), "written": ("written", 1e9, "GB")}
    columns["time"] = ("seconds", 1.0, "s")
    head = " | ".join(f"{name}, {unit}" for name, (_, _, unit) in columns.items())
    lines = [f"| {results['model']} | {head} |", f"|---|{'---:|' * len(columns)}"]
    for name, row in results["rows"].items():
        cells = [_cell(row["planned"][key], row["found"][key], scale) for key, scale, _ in columns.values()]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(planned: float | None, found: float, scale: float) -> str:
    """``planned / found``, marked where they are further apart than a fifth and it is no trifle."""
    if planned is None:
        return f"not known / {found / scale:.3g}"
    apart = abs(planned - found) > TOLERANCE * found and abs(planned - found) / scale > 0.05
    return f"{planned / scale:.3g} / {found / scale:.3g}{' *' if apart else ''}"


if __name__ == "__main__":
    main()
