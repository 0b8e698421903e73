"""What healing costs in passes over the model: every window through every block counts, of both models.

One dense pass is all calibration windows through all blocks of the dense model, as `calibrate` runs them. Blocks are
removed and healed in this process, with each scope; every call of a block is counted by its windows.

    python benchmarks/healing_cost.py MODEL --source wikitext2:wiki.train.raw --blocks 14,17,13,26,15,16
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from torch import Tensor
from typer.testing import CliRunner

from llmprune.cli.app import app
from llmprune.models.capture import BlockCall, BlockRunner


def passes(words: list[str], count: Counter[str]) -> float:
    """Windows through blocks that a command runs."""
    before = count["windows"]
    result = CliRunner().invoke(app, words)
    if result.exit_code:
        raise SystemExit(f"llmprune {' '.join(words)} ends with {result.exit_code}: {result.output}")
    return count["windows"] - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--source", required=True)
    parser.add_argument("--samples", default="64")
    parser.add_argument("--seq-len", default="64", help="the counts do not depend on it, unless it decides what helps")
    parser.add_argument("--blocks", required=True, help="blocks that are removed")
    options = parser.parse_args()
    count: Counter[str] = Counter()

    forward_block = BlockRunner.forward_block

    def counted(runner: BlockRunner, index: int, hidden: Tensor, call: BlockCall) -> Tensor:
        count["windows"] += len(hidden)
        return forward_block(runner, index, hidden, call)

    BlockRunner.forward_block = counted
    with tempfile.TemporaryDirectory() as folder:
        run = ["--run", f"{folder}/run", "--quiet"]
        windows = ["--samples", options.samples, "--seq-len", options.seq_len]
        dense = passes(["calibrate", str(options.model), "--source", options.source, *windows, *run], count)
        print(f"One dense pass: {dense} windows through a block.")
        print("| | dense passes |\n|---|---:|")
        for scope in ("cut", "all"):
            place = ["--heal", scope, "--no-verify", "--out", f"{folder}/{scope}"]
            found = passes(["remove-blocks", "--blocks", options.blocks, *place, *run], count)
            print(f"| `remove-blocks --heal {scope}` | {found / dense:.1f} |")


if __name__ == "__main__":
    main()
