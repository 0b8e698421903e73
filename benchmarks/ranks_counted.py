"""global-prune in several processes by counting, not by timing: what each rank computes while the others wait for it.

The shapes are a model's, the weights random. Every operation of the blocks is counted on every rank: multiplications of
matrix products and of solves, and the bytes that all other operations read and write. Whenever the ranks meet, the most
that any of them has done since they met before is added up: the critical path.

- efficiency: what one process does / (processes x the critical path); 1.00 if all is divided evenly and nothing twice.
- twice: what all ranks do together beyond what one process does, as a share of that.
- sent: bytes of the tensors that were summed or broadcast, each counted once, a block; and how often the ranks meet.

    python benchmarks/ranks_counted.py --folder FOLDER [--sizes 1,2,4] [--samples 16] [--seq-len 256]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llmprune.ranks.group import Ranks
from llmprune.stages.weight_pruning.share import PassShare
from tests.ranks import together
from tests.ranks.together import run_ranks
from tests.tiny import save_tiny_llama, write_text

SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "initializer_range": 0.04,
}
aten = torch.ops.aten


class Counter(TorchDispatchMode):
    """Counts what one rank does, in parts between meetings: multiplications, and bytes of all else."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = [[0, 0]]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if (products := multiplications(func.overloadpacket, args, found)) is not None:
            self.parts[-1][0] += products
        elif not func.is_view and "empty" not in str(func):
            self.parts[-1][1] += sum(
                one.nbytes for one in tree_leaves((args, kwargs, found)) if isinstance(one, Tensor)
            )
        return found


def multiplications(operation: Any, args: Any, found: Any) -> int | None:
    """Of a product or a solve; None: it is neither."""
    match operation:
        case aten.linear:  # whole, where no gradient is asked for
            return args[0].numel() * args[1].shape[0]
        case aten.mm | aten.bmm:
            return args[0].numel() * args[1].shape[-1]
        case aten.addmm | aten.addmm_ | aten.baddbmm:
            return args[1].numel() * args[2].shape[-1]
        case aten.linalg_cholesky_ex | aten.cholesky:
            return args[0].shape[-1] ** 3 // 6
        case aten.linalg_solve_triangular:
            return args[1].numel() * args[0].shape[-1] // 2
        case aten.cholesky_solve:
            return args[0].numel() * args[1].shape[-1]
        case aten.scaled_dot_product_attention | aten._scaled_dot_product_flash_attention_for_cpu:
            return 2 * args[0].numel() * args[1].shape[-2]
    return None


def counting(folder: Path) -> Callable[[int], None]:
    """What has a rank count, and write its counts into a folder."""
    folder.mkdir()

    def install(rank: int) -> None:
        counter, passed, in_step, gathered = Counter(), PassShare.pass_block, Ranks._in_step, Ranks._gathered

        def pass_block(self: PassShare, *args: Any) -> Any:
            ranks: Ranks = self._ranks
            moved = ranks.moved
            with counter:
                result = passed(self, *args)
            counts = {"parts": counter.parts, "moved": ranks.moved - moved}
            with (folder / str(rank)).open("a") as file:
                file.write(json.dumps(counts) + "\n")
            counter.parts = [[0, 0]]
            return result

        def meeting(self: Ranks) -> Any:
            counter.parts.append([0, 0])
            return in_step(self)

        def agreeing(self: Ranks, value: Any) -> Any:
            return gathered(self, value)

        PassShare.pass_block, Ranks._in_step, Ranks._gathered = pass_block, meeting, agreeing

    return install


def counted(size: int, words: list[object], folder: Path) -> dict[str, Any]:
    """Prune in so many processes; the counts of all blocks."""
    counts = folder / f"counts-{size}"
    shutil.rmtree(counts, ignore_errors=True)
    out = folder / f"out-{size}"
    for path in (out, out.with_name(f"{out.name}.partial")):  # of an earlier count
        shutil.rmtree(path, ignore_errors=True)
    ended = run_ranks(
        size, ["global-prune", *words, "--out", out, "--no-verify"], folder / f"said-{size}", before=counting(counts)
    )
    if any(one.exit_code for one in ended):
        raise SystemExit(ended[0].stderr)
    ranks = [[json.loads(line) for line in (counts / str(rank)).read_text().splitlines()] for rank in range(size)]
    blocks = list(zip(*ranks, strict=True))
    work = [[part for one in blocks for part in one[rank]["parts"]] for rank in range(size)]
    return {
        "blocks": len(blocks),
        "critical": [
            sum(max(part[kind] for part in meeting) for meeting in zip(*work, strict=True)) for kind in (0, 1)
        ],
        "all": [sum(part[kind] for one in work for part in one) for kind in (0, 1)],
        "moved": sum(one[0]["moved"] for one in blocks),
        "meetings": len(work[0]) - len(blocks),
    }


def page(rows: dict[int, dict[str, Any]]) -> str:
    """The table of the documentation."""
    lines = [
        "| processes | products | efficiency | twice | other bytes | efficiency | twice | sent a block | meetings |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for size, row in rows.items():
        cells = [str(size)]
        for kind, unit in ((0, "G"), (1, "GB")):
            alone, path, together = rows[1]["all"][kind], row["critical"][kind], row["all"][kind]
            cells += [f"{path / 1e9:.1f} {unit}", f"{alone / (size * path):.2f}", f"{together / alone - 1:.1%}"]
        cells += [f"{row['moved'] / row['blocks'] / 1e6:.0f} MB", f"{row['meetings'] / row['blocks']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--sizes", default="1,2,4")
    parser.add_argument("--samples", default="16")
    parser.add_argument("--seq-len", default="256")
    parser.add_argument("--method", default="sparsellm")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    together._DEADLINE = 3600.0
    run = options.folder / f"run-{options.samples}-{options.seq_len}"
    if not run.exists():
        model = save_tiny_llama(options.folder / "model", num_blocks=2, **SMOLLM2)
        text = write_text(options.folder / "sea.txt", num_words=200_000)
        words = ["calibrate", model, "--source", text, "--samples", options.samples, "--seq-len", options.seq_len]
        (ended,) = run_ranks(1, [*words, "--run", run], options.folder / "calibrated")
        if ended.exit_code:
            raise SystemExit(ended.stderr)
    words = ["--sparsity", "50%", "--method", options.method, "--run", run]
    print(page({size: counted(size, words, options.folder) for size in map(int, options.sizes.split(","))}))


if __name__ == "__main__":
    main()
