"""One command in 1, 2 and 4 processes of one thread each (gloo): seconds, efficiency, bytes, and how much is the same.

A row is a command in so many processes, started as torchrun starts them. Rows that the results file has already are not
run again. All rows take one calibration, made first by one process.

- seconds: those that the artifacts record of the rounds and of the blocks; starting and verifying is left out.
- efficiency: seconds of one process / (processes x seconds). On fewer cores than processes it cannot be 1.
- moved: bytes of the tensors that were summed or broadcast, each counted once, a round of the search or a pruned block.
- verify-redundancy: the order, and the largest difference of a loss to that of one process.
- global-prune: the share of equal masks, and perplexity on windows of another text.

    python benchmarks/ranks.py MODEL --source TEXT --ppl TEXT --folder FOLDER --out benchmarks/ranks.json
    python benchmarks/ranks.py --page benchmarks/ranks.json
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from started_ranks import start_ranks

from llmprune.artifacts.files.atomic import write_text_atomic
from llmprune.artifacts.records.importance import Importance
from llmprune.evaluation.machine import describe_machine
from llmprune.evaluation.perplexity import window_losses
from llmprune.models.loading import load_tokenizer, load_whole
from llmprune.text.corpora import load_corpus
from llmprune.text.windows import consecutive_windows

CHILD = "--as-one-of-several"
SEARCH, PRUNE = "verify-redundancy", "global-prune"


def main() -> None:
    if CHILD in sys.argv:
        _child(sys.argv[sys.argv.index(CHILD) + 1 :])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--source", help="calibration text")
    parser.add_argument("--ppl", help="evaluation text")
    parser.add_argument("--samples", default="32")
    parser.add_argument("--seq-len", default="512")
    parser.add_argument("--windows", type=int, default=40, help="of the evaluation text")
    parser.add_argument("--ppl-seq-len", type=int, default=2048, help="tokens in each")
    parser.add_argument("--sizes", default="1,2,4", help="numbers of processes; 1 must be among them")
    parser.add_argument("--commands", default=f"{SEARCH},{PRUNE}")
    parser.add_argument("--again", type=int, help="a number of processes that run twice, which must find the same")
    parser.add_argument("--target", default="2", help="blocks that the search removes")
    parser.add_argument("--layers", default="0-2", help="blocks that are pruned")
    parser.add_argument("--sparsity", default="50%")
    parser.add_argument("--folder", type=Path, help="for runs and checkpoints")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/ranks.json"))
    parser.add_argument("--page", type=Path, help="print the table of a results file, and end")
    options = parser.parse_args()
    if options.page is not None:
        print(page(json.loads(options.page.read_text())))
        return
    measure(options)
    print(page(json.loads(options.out.read_text())))


def measure(options: argparse.Namespace) -> None:
    """Measure what the results file does not have yet."""
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    results["machine"] = describe_machine(torch.device("cpu")).model_dump()
    results["settings"] = {
        name: getattr(options, name)
        for name in ("samples", "seq_len", "target", "layers", "sparsity", "windows", "ppl_seq_len")
    }
    rows = results.setdefault("rows", {})
    calibrated = options.folder / "calibrated"
    if not (calibrated / "calibration" / "manifest.json").exists():
        words = ["calibrate", options.model, "--source", options.source]
        _run(
            1, [*words, "--samples", options.samples, "--seq-len", options.seq_len, "--run", calibrated], options.folder
        )
    for command in options.commands.split(","):
        for size in map(int, options.sizes.split(",")):
            name = f"{command} {size}"
            if name not in rows:
                run = options.folder / name.replace(" ", "-")
                rows[name] = _measured(command, calibrated, run, size, options)
                if size == options.again:
                    second = options.folder / f"{run.name}-again"
                    other = _measured(command, calibrated, second, size, options)
                    rows[name]["again"] = _same_found(rows[name], other) and _same_weights(run, second)
                write_text_atomic(options.out, json.dumps(results, indent=1) + "\n")


def _measured(command: str, calibrated: Path, run: Path, size: int, options: argparse.Namespace) -> dict[str, Any]:
    if not run.exists():
        shutil.copytree(calibrated, run)
    return _searched(run, size, options) if command == SEARCH else _pruned(run, size, options)


def _same_found(row: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a second run has found the very same."""
    return {**row, "seconds": 0} == {**other, "seconds": 0}


def _same_weights(run: Path, other: Path) -> bool:
    """Whether both runs have written the same bytes, if they have written weights."""
    files = [path.relative_to(run) for path in run.glob("pruned/*.safetensors")]
    return all((run / file).read_bytes() == (other / file).read_bytes() for file in files)


def _searched(run: Path, size: int, options: argparse.Namespace) -> dict[str, Any]:
    moved = _run(size, [SEARCH, "--target", options.target, "--run", run], options.folder)
    found = Importance.read(run / "importance.json")
    return {
        "seconds": sum(one.seconds for one in found.rounds),
        "steps": len(found.rounds),
        "moved": moved,
        "order": list(found.order),
        "losses": [one.loss for one in found.rounds],
    }


def _pruned(run: Path, size: int, options: argparse.Namespace) -> dict[str, Any]:
    out = run / "pruned"
    words = [PRUNE, "--sparsity", options.sparsity, "--layers", options.layers, "--no-verify", "--run", run]
    moved = _run(size, [*words, "--out", out], options.folder)
    blocks = json.loads((out / "llmprune.json").read_text())["sparsity"]["blocks"]
    names = [name for block in blocks for matrix in block["matrices"] for name in (matrix["tensor"], *matrix["others"])]
    equal = _equal_masks(out, options.folder / f"{PRUNE}-1" / "pruned", names)
    return {
        "seconds": sum(block["seconds"] for block in blocks),
        "steps": len(blocks),
        "moved": moved,
        "equal_masks": equal,
        "zeros": [matrix["zeros"] for block in blocks for matrix in block["matrices"]],
        "perplexity": _perplexity(out, options),
    }


def _equal_masks(one: Path, other: Path, names: list[str]) -> float:
    """The share of weights that are zero in both checkpoints, or in neither."""
    ours, theirs = (_tensors(directory) for directory in (one, other))
    equal = sum(int(((ours[name] == 0) == (theirs[name] == 0)).sum()) for name in names)
    return equal / sum(ours[name].numel() for name in names)


def _tensors(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


def _perplexity(directory: Path, options: argparse.Namespace) -> float:
    corpus, tokenizer = load_corpus(options.ppl, purpose="evaluation"), load_tokenizer(directory)
    windows = consecutive_windows(corpus, tokenizer, seq_len=options.ppl_seq_len, max_windows=options.windows)
    model = load_whole(directory, device=torch.device("cpu"), dtype=torch.float32)
    losses = window_losses(model, windows.tokens, batch_tokens=2048)
    return math.exp(sum(losses) / len(losses))


def _run(size: int, words: list[object], folder: Path) -> int:
    """Run a command in so many processes, as torchrun starts them; returns the bytes that rank 0 moved."""
    folder.mkdir(parents=True, exist_ok=True)
    moved = folder / "moved"
    children = start_ranks(size, [sys.executable, __file__, CHILD, moved, *words])
    codes = [child.wait() for child in children]
    if any(codes):
        raise SystemExit(f"{' '.join(map(str, words))} failed in {size} processes.")
    return int(moved.read_text())


def _child(words: list[str]) -> None:
    """Be one of the processes; rank 0 notes how many bytes it has moved."""
    from llmprune.cli.app import main as run_command
    from llmprune.ranks.group import joined

    sys.argv = ["llmprune", *words[1:]]
    try:
        run_command()
    finally:
        if joined().is_first:
            Path(words[0]).write_text(str(joined().moved))


def page(results: dict[str, Any]) -> str:
    """The table of the documentation."""
    rows: dict[str, dict[str, Any]] = results["rows"]
    lines = [
        "| command | processes | seconds | efficiency | moved a round or block | the same as one process |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name, row in rows.items():
        command, size = name.split()
        one = rows[f"{command} 1"]
        if command == SEARCH:
            apart = max(abs(ours - theirs) for ours, theirs in zip(row["losses"], one["losses"], strict=True))
            order = "the same order" if row["order"] == one["order"] else "ANOTHER ORDER"
            same = f"{order}, losses to {apart:.0e}"
        else:
            counts = "all counts" if row["zeros"] == one["zeros"] else "OTHER COUNTS"
            same = f"{row['equal_masks']:.3%} of the masks, {counts}, perplexity {row['perplexity']:.3f}"
        efficiency = one["seconds"] / (int(size) * row["seconds"])
        megabytes = row["moved"] / row["steps"] / 1e6
        lines.append(
            f"| `{command}` | {size} | {row['seconds']:.1f} | {efficiency:.2f} | {megabytes:.1f} MB | "
            f"{'' if size == '1' else same}{_again(row)} |"
        )
    return "\n".join(lines)


def _again(row: dict[str, Any]) -> str:
    if "again" not in row:
        return ""
    return "; a second run: the same bytes" if row["again"] else "; a second run: OTHER BYTES"


if __name__ == "__main__":
    main()
