"""Block search in several ways in one process: plain, naive, exhaustive (forked), and with early elimination.

Plain is what one would write with transformers alone: a full forward pass of the model for every candidate, which
is bypassed, and the loss from all logits. Naive does the same with llmprune's own blocks, head and loss, so that
what differs from exhaustive is only which block forwards are run.

    python benchmarks/block_search.py MODEL --source wikitext2:wiki.train.raw --windows 32 --seq-len 512 --rounds 1
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from llmprune.algorithms.blocks.elimination import EliminationRule
from llmprune.algorithms.blocks.evaluator import WindowLosses
from llmprune.algorithms.blocks.search import greedy_rounds
from llmprune.models.capture import bypassed
from llmprune.models.compute import choose_compute
from llmprune.models.decoder import Decoder
from llmprune.models.loading import load_tokenizer, open_decoder
from llmprune.stages.block_search.evaluator import WindowEvaluator
from llmprune.text.corpora import load_corpus
from llmprune.text.windows import sample_windows


def plain_losses(evaluator: WindowEvaluator, windows: range, *, remaining: Iterable[int]) -> WindowLosses:
    """Losses with the blocks ``remaining`` alone."""
    states = evaluator.entering(windows)[None].clone()
    for block in remaining:
        evaluator.apply_block(block, states, windows)
    return evaluator.losses(states, windows)


def naive_rounds(evaluator: WindowEvaluator, *, count: int) -> Iterator[tuple[int, dict[int, float], int]]:
    """SLEB as it is defined: for every candidate a full forward pass without it."""
    removed: list[int] = []
    windows = range(evaluator.num_windows)
    for _ in range(count):
        remaining = [block for block in range(evaluator.num_blocks) if block not in removed]
        losses, forwards = {}, 0
        for candidate in remaining[1:-1]:
            others = [block for block in remaining if block != candidate]
            found = plain_losses(evaluator, windows, remaining=others)
            forwards += len(others) * len(windows)
            losses[candidate] = float(found.sums.mean()) / found.tokens
        removed.append(min(losses, key=lambda block: losses[block]))
        yield removed[-1], losses, forwards


def plain_rounds(
    evaluator: WindowEvaluator, decoder: Decoder, tokens: Tensor, *, count: int, batch: int
) -> Iterator[tuple[int, dict[int, float], int]]:
    """The same by plain transformers: the whole model is called, and gives all logits of a batch at once."""
    removed: list[int] = []
    for _ in range(count):
        remaining = [block for block in range(evaluator.num_blocks) if block not in removed]
        losses = {}
        for candidate in remaining[1:-1]:
            total = 0.0
            with bypassed(decoder.blocks, [*removed, candidate], decoder.runner.returned), torch.inference_mode():
                for windows in tokens.split(batch):
                    logits = decoder.model(input_ids=windows, use_cache=False).logits[:, :-1].float()
                    total += float(cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), reduction="sum"))
            losses[candidate] = total / (tokens.shape[0] * (tokens.shape[1] - 1))
        removed.append(min(losses, key=lambda block: losses[block]))
        yield removed[-1], losses, (len(remaining) - 1) * len(losses) * len(tokens)


def search_rounds(
    evaluator: WindowEvaluator, *, count: int, rule: EliminationRule | None
) -> Iterator[tuple[int, dict[int, float], int]]:
    """The search as llmprune runs it, in the same form."""
    ends = frozenset({0, evaluator.num_blocks - 1})
    for decided in greedy_rounds(evaluator, count=count, protected=ends, rule=rule):
        complete = {candidate.block: candidate.loss for candidate in decided.candidates if candidate.complete}
        yield decided.removed, complete, decided.block_forwards


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--source", required=True)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--ways", default="plain,naive,exhaustive,eliminate")
    parser.add_argument("--repeats", type=int, default=1, help="all ways in turn, so often; ratios are medians")
    return parser.parse_args()


def _summary(results: dict[str, dict], *, dtype: str) -> dict:
    """Every way against the first: ratios of time and work, and how far its losses are off."""
    summary = {"threads": torch.get_num_threads(), "dtype": dtype, "ratios": {}, "largest_difference": {}}
    first = results[next(iter(results))]
    for way, result in results.items():
        turns = [ours / theirs for ours, theirs in zip(result["seconds"], first["seconds"], strict=True)]
        forwards = result["block_forwards"] / first["block_forwards"]
        summary["ratios"][way] = {"seconds": median(turns), "turns": turns, "block_forwards": forwards}
        pairs = zip(first["losses"], result["losses"], strict=True)
        summary["largest_difference"][way] = max(
            abs(ours[block] - theirs[block]) for theirs, ours in pairs for block in ours
        )
    return summary


def main() -> None:
    options = _options()
    compute = choose_compute("auto", options.dtype)
    decoder = open_decoder(options.model, device=compute.device, dtype=compute.dtype)
    for block in range(len(decoder.blocks)):  # all stay open, for plain transformers
        decoder.block(block).__enter__()
    windows = sample_windows(
        load_corpus(options.source),
        load_tokenizer(options.model),
        num_windows=options.windows,
        seq_len=options.seq_len,
    )
    batch = compute.batch_windows(options.seq_len)

    full = WindowEvaluator(decoder, windows.tokens, batch_size=batch)
    plain_losses(full, range(batch), remaining=range(full.num_blocks))  # warm-up
    ways = {
        "plain": lambda: plain_rounds(full, decoder, windows.tokens, count=options.rounds, batch=batch),
        "naive": lambda: naive_rounds(full, count=options.rounds),
        "exhaustive": lambda: search_rounds(full, count=options.rounds, rule=None),
        "eliminate": lambda: search_rounds(full, count=options.rounds, rule=EliminationRule()),
    }
    results: dict[str, dict] = {}
    for way in options.ways.split(",") * options.repeats:
        started = time.perf_counter()
        rounds = list(ways[way]())
        earlier = results[way]["seconds"] if way in results else []
        results[way] = {
            "seconds": [*earlier, time.perf_counter() - started],
            "block_forwards": sum(forwards for _, _, forwards in rounds),
            "removed": [block for block, _, _ in rounds],
            "losses": [losses for _, losses, _ in rounds],
        }
        print(way, {key: value for key, value in results[way].items() if key != "losses"}, flush=True)
    print(json.dumps(_summary(results, dtype=options.dtype), indent=2))


if __name__ == "__main__":
    main()
