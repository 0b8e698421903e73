"""A rank is killed in the middle of each command; the job goes on with two processes, is killed again, and ends as one.

Each command runs to its end in two processes first: that says how long it takes, and what it is to find. Then, from
the same state:

1. two processes; rank 1 is killed by SIGKILL at half of that time;
2. two processes go on, and rank 1 is killed again a little later;
3. one process goes on, and must end.

Rank 0 must end with exit code 1 and one sentence that names rank 1, each time. The end must be that of the undisturbed
run: the same order or healed blocks, the same counts of zeros, losses and perplexities to --tolerance (relative: a sum
in another order has other last digits). A row that the results file has already is not run again.

    python benchmarks/ranks_killed.py MODEL --source TEXT --ppl TEXT --folder FOLDER --out benchmarks/ranks_killed.json
    python benchmarks/ranks_killed.py --page benchmarks/ranks_killed.json
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results import keep_results, read_results
from started_ranks import start_ranks

START = 5.0  # seconds that a process takes to begin, about: no kill comes sooner
Found = dict[str, Any]


def commands(options: argparse.Namespace) -> dict[str, tuple[list[str], Callable[[Path], Found]]]:
    """The commands in an order in which each finds what it needs, and how to read what they found."""
    windows = ["--source", options.source, "--samples", options.samples, "--seq-len", options.seq_len]
    fast = ["--no-verify", "--out"]
    return {
        "calibrate": (["calibrate", str(options.model), *windows], _calibrated),
        "verify-redundancy": (["verify-redundancy", "--target", "2"], _ranked),
        "remove-blocks --heal": (["remove-blocks", "--target", "2", "--heal", "all", *fast, "RUN/smaller"], _healed),
        "global-prune": (["global-prune", "--sparsity", "50%", "--layers", "0-3", *fast, "RUN/sparse"], _pruned),
        "bench": (
            ["bench", "RUN/smaller", "--no-speed", "--ppl", options.ppl, "--max-windows", "8"],
            _benched,
        ),
    }


def _calibrated(run: Path) -> Found:
    found = json.loads((run / "calibration" / "manifest.json").read_text())
    return {"same": found["windows_fingerprint"], "numbers": _numbers([found["dense_losses"], found["blocks"]])}


def _ranked(run: Path) -> Found:
    found = json.loads((run / "importance.json").read_text())
    return {"same": found["order"], "numbers": [one["loss"] for one in found["rounds"]]}


def _healed(run: Path) -> Found:
    found = json.loads((run / "smaller" / "llmprune.json").read_text())["healing"]["blocks"]
    losses = [layer["loss"] for block in found for layer in block["layers"]]
    return {"same": [block["block"] for block in found], "numbers": losses}


def _pruned(run: Path) -> Found:
    found = json.loads((run / "sparse" / "llmprune.json").read_text())["sparsity"]["blocks"]
    return {"same": [matrix["zeros"] for block in found for matrix in block["matrices"]], "numbers": []}


def _benched(run: Path) -> Found:
    (path,) = (run / "bench").glob("*.json")
    found = json.loads(path.read_text())
    losses = [text["window_losses"] for model in (found["baseline"], found["model"]) for text in model["perplexity"]]
    return {"same": [len(one) for one in losses], "numbers": _numbers(losses)}


def _numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        return [one for key in sorted(value) for one in _numbers(value[key])]
    if isinstance(value, list):
        return [one for part in value for one in _numbers(part)]
    return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


def measure(options: argparse.Namespace) -> None:
    """Try what the results file does not have yet."""
    results = read_results(options.out, {"rows": {}})
    state = options.folder / "start"
    state.mkdir(parents=True, exist_ok=True)
    for number, (name, (words, read)) in enumerate(commands(options).items()):
        after = options.folder / f"after-{number}"
        if name not in results["rows"] or not after.exists():
            results["rows"][name] = _tried(words, read, state, after, options)
            keep_results(options.out, results)
            print(name, json.dumps(results["rows"][name]), flush=True)
        state = after


def _tried(
    words: list[str], read: Callable[[Path], Found], state: Path, after: Path, options: argparse.Namespace
) -> Found:
    whole, run = _copy(state, options.folder / "undisturbed"), options.folder / "killed"
    began = time.monotonic()
    _expect(_run(2, words, whole, None), [0, 0])
    seconds = time.monotonic() - began
    expected = read(whole)
    _copy(state, run)
    said = []
    for share in (0.5, 0.3):
        ended = _run(2, words, run, START + share * max(1.0, seconds - START))
        said.append(ended[0][1].strip().splitlines()[-1] if ended[0][1].strip() else "")
        if ended[0][0] == 0:
            raise SystemExit(f"{words[0]} had ended before its rank could be killed.")
        if ended[0][0] != 1 or "rank 1" not in said[-1].lower() or "Traceback" in ended[0][1]:
            raise SystemExit(f"{words[0]}, rank 1 killed: rank 0 ends with {ended[0][0]} and says {ended[0][1]}")
    began = time.monotonic()
    _expect(_run(1, words, run, None), [0])
    alone, found = time.monotonic() - began, read(run)
    pairs = zip(found["numbers"], expected["numbers"], strict=True)
    apart = max((abs(ours - theirs) / max(abs(theirs), 1e-12) for ours, theirs in pairs), default=0.0)
    if found["same"] != expected["same"] or apart > options.tolerance:
        raise SystemExit(f"{words[0]} ends otherwise: {found} and not {expected}")
    shutil.rmtree(after, ignore_errors=True)
    whole.rename(after)
    return {"seconds": round(seconds, 1), "resumed_alone": round(alone, 1), "apart": apart, "said": said[0]}


def _copy(state: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(state, to)
    return to


def _expect(ended: list[tuple[int, str]], codes: list[int]) -> None:
    if [code for code, _ in ended] != codes:
        raise SystemExit(f"A run that nobody disturbed ended with {ended}.")


def _run(size: int, words: list[str], run: Path, kill_after: float | None) -> list[tuple[int, str]]:
    """Exit code and stderr of each rank; rank 1 is killed after so many seconds."""
    typed = [word.replace("RUN/", f"{run}/") for word in words] + ["--run", str(run), "--quiet"]
    children = start_ranks(size, [sys.executable, "-m", "llmprune", *typed], stderr=subprocess.PIPE)
    if kill_after is not None:
        try:
            children[0].wait(kill_after)
        except subprocess.TimeoutExpired:
            children[1].send_signal(signal.SIGKILL)
    said = [child.communicate()[1] for child in children]
    return [(child.returncode, text) for child, text in zip(children, said, strict=True)]


def page(results: Found) -> str:
    """The table of the documentation."""
    lines = [
        "| command | two processes, undisturbed | the last of three, alone | numbers apart by at most |",
        "|---|---:|---:|---:|",
    ]
    for name, row in results["rows"].items():
        apart = "nothing" if row["apart"] == 0 else f"10^{math.ceil(math.log10(row['apart']))}"
        lines.append(f"| `{name}` | {row['seconds']:.0f} s | {row['resumed_alone']:.0f} s | {apart} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--source", help="calibration text")
    parser.add_argument("--ppl", help="evaluation text")
    parser.add_argument("--samples", default="16")
    parser.add_argument("--seq-len", default="256")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--folder", type=Path, help="for runs and checkpoints")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/ranks_killed.json"))
    parser.add_argument("--page", type=Path, help="print the table of a results file, and end")
    options = parser.parse_args()
    if options.page is None:
        measure(options)
    print(page(read_results(options.page or options.out, {"rows": {}})))


if __name__ == "__main__":
    main()
