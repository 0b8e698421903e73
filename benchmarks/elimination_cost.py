"""What early elimination costs in block forwards, by replaying its rule on the losses of one round.

The first round of a search is measured on every window with every candidate, once. From these windows populations of
any size are drawn with replacement, and the rule decides on them as it would in a search. A schedule that compares
after 4, 6, 9, 13 ... windows stands beside: it costs fewer block forwards, and reads a model that does not fit into
memory once for each comparison.

    python benchmarks/elimination_cost.py MODEL --source wikitext2:wiki.train.raw --windows 28 --seq-len 128
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from llmprune.algorithms.blocks.elimination import EliminationRule
from llmprune.algorithms.blocks.search import forked_forwards, forked_losses
from llmprune.models.compute import choose_compute
from llmprune.models.loading import load_tokenizer, open_decoder
from llmprune.stages.block_search.evaluator import WindowEvaluator
from llmprune.text.corpora import load_corpus
from llmprune.text.windows import sample_windows


class OftenRule(EliminationRule):
    """The same rule with more comparisons."""

    @staticmethod
    def looks(num_windows: int) -> tuple[int, ...]:
        looks, windows = [], 4
        while windows < num_windows:
            looks.append(windows)
            windows = int(windows * 1.5)
        return tuple(looks)


def measure_losses(model: Path, source: str, *, windows: int, seq_len: int) -> Tensor:
    """(candidates, windows) mean losses of the first round; the candidates are all blocks but the first and last."""
    compute = choose_compute("auto", "float32")
    decoder = open_decoder(model, device=compute.device, dtype=compute.dtype)
    drawn = sample_windows(load_corpus(source), load_tokenizer(model), num_windows=windows, seq_len=seq_len)
    evaluator = WindowEvaluator(decoder, drawn.tokens, batch_size=compute.batch_windows(seq_len))
    blocks = range(len(decoder.blocks))
    found = forked_losses(evaluator, range(windows), remaining=blocks, candidates=blocks[1:-1])
    return found.sums / found.tokens


def replay(losses: Tensor, rule: EliminationRule) -> tuple[int, list[int], bool]:
    """Block forwards of a round on (candidates, windows) losses, survivors of each look, and whether it was right."""
    candidates, windows = losses.shape
    surviving, forwards, left = torch.arange(candidates), 0, []
    for start, stop in pairwise((0, *rule.looks(windows), windows)):
        forwards += (stop - start) * forked_forwards(range(candidates + 2), (surviving + 1).tolist())
        if stop < windows:
            out = rule.hopeless(losses[surviving, :stop], candidates=candidates, num_windows=windows)
            surviving = surviving[~out]
            left.append(len(surviving))
    return forwards, left, int(losses.mean(dim=1).argmin()) in surviving.tolist()


def compare(losses: Tensor, sizes: Sequence[int], *, rounds: int) -> list[str]:
    """A row of the table for each number of windows."""
    rows = []
    for windows in sizes:
        generator = torch.Generator().manual_seed(0)
        drawn = [losses[:, torch.randint(losses.shape[1], (windows,), generator=generator)] for _ in range(rounds)]
        naive = len(losses) * (len(losses) + 1) * windows
        cells = [str(windows)]
        for rule in (EliminationRule(), OftenRule()):
            replayed = [replay(one, rule) for one in drawn]
            cells.append(f"{mean(forwards for forwards, _, _ in replayed) / naive:.2f}")
            cells.append(str(len(rule.looks(windows)) + 1))
            if type(rule) is EliminationRule:
                cells.append(
                    ", ".join(f"{mean(at):.1f}" for at in zip(*(left for _, left, _ in replayed), strict=True))
                )
            assert sum(not right for _, _, right in replayed) <= max(1, 0.01 * rounds)
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--source", required=True)
    parser.add_argument("--windows", type=int, default=28)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    losses = measure_losses(options.model, options.source, windows=options.windows, seq_len=options.seq_len)
    print("| windows | block forwards | walks | candidates left | looking at 4, 6, 9 ... | walks |")
    print("|---:|---:|---:|---|---:|---:|")
    print("\n".join(compare(losses, (8, 16, 32, 64, 128), rounds=options.rounds)))


if __name__ == "__main__":
    main()
