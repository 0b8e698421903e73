"""Removed blocks, healed and not: perplexity and greedy agreement, beside the dense model and an upper bound.

Blocks are ranked once by SLEB. Each row removes a share of them by `llmprune remove-blocks`, with --heal none, cut or
all, and measures the written checkpoint. `upper bound` is no checkpoint: the holes of the plain one are filled with
full linear maps of the hidden states (arXiv 2605.15491), which no stock model has. Greedy agreement is the share of
next tokens on which dense and pruned model agree, on the windows of the first --ppl text. `taken back` is the share of
the log-perplexity that the removal lost.

Rows that the results file has already are not run again, so a long table can be made in several sittings (with --run,
on one and the same calibration and ranking). Type the last line again to print the table.

    python benchmarks/healing.py MODEL --source wikitext2:wiki.train.raw --ppl wikitext2:wiki.test.raw \
        --ppl c4:c4_text.jsonl --run RUN --out results.json
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from weight_pruning import known_rows, perplexity, text_name

from llmprune.algorithms import Correction, MomentsAccumulator, correct, remaining_error
from llmprune.artifacts.activations import open_calibration
from llmprune.artifacts.checkpoints.block_numbers import kept_blocks
from llmprune.artifacts.files.atomic import write_text_atomic
from llmprune.artifacts.records.pruning import RECORD_NAME, PruningRecord
from llmprune.artifacts.run import RunDirectory
from llmprune.evaluation.machine import describe_machine
from llmprune.models.anatomy import block_count, find_blocks
from llmprune.models.block_output import Returned
from llmprune.models.capture import BlockRunner
from llmprune.models.loading import load_tokenizer, load_whole
from llmprune.stages.healing.settings import RIDGES, held_back
from llmprune.text.corpora import load_corpus
from llmprune.text.windows import consecutive_windows

WAYS = ("none", "cut", "all", "upper bound")
CPU = torch.device("cpu")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--source", required=True, help="calibration text")
    parser.add_argument("--samples", default="32")
    parser.add_argument("--seq-len", default="1024")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--targets", default="10%,20%,30%")
    parser.add_argument("--order", help="blocks in the order of an earlier search, in place of a new one")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--ppl", action="append", required=True, help="evaluation text; can be repeated")
    parser.add_argument("--windows", type=int, help="use the first so many windows of each text")
    parser.add_argument("--ppl-seq-len", type=int, default=2048, help="tokens a window of these")
    parser.add_argument("--run", type=Path, help="run directory to keep; default: a temporary one")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(words)

    known = known_rows(options)
    known["processor"] = describe_machine(CPU).processor
    with tempfile.TemporaryDirectory() as folder:
        run = options.run or Path(folder) / "run"
        rows = [("dense", "")] + [(t, way) for t in options.targets.split(",") for way in options.ways.split(",")]
        if missing := [row for row in rows if _name(*row) not in known["rows"]]:
            largest = max((target for target, _ in rows[1:]), key=_share)
            _llmprune("calibrate", options.model, "--source", options.source, "--samples", options.samples,
                      "--seq-len", options.seq_len, "--dtype", options.dtype, run=run)  # fmt: skip
            if options.order is None:
                _llmprune("verify-redundancy", "--target", largest, run=run)
            dense = Dense(options)
        for row in missing:
            known["rows"][_name(*row)] = dense.measured() if row[0] == "dense" else dense.row(run, *row)
            write_text_atomic(options.out, json.dumps(known, indent=1) + "\n")
            print(_name(*row), json.dumps(known["rows"][_name(*row)]), flush=True)
    print(table(known))


class Dense:
    """The dense model, and how others are held against it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._model = load_whole(options.model, device=CPU, dtype=getattr(torch, options.dtype))
        corpus = load_corpus(options.ppl[0], purpose="evaluation")
        tokenizer = load_tokenizer(options.model)
        length, count = options.ppl_seq_len, options.windows
        self._tokens = consecutive_windows(corpus, tokenizer, seq_len=length, max_windows=count).tokens
        self._choices = _choices(self._model, self._tokens)

    def measured(self) -> dict[str, Any]:
        """The row of the dense model itself."""
        return self._figures(self._model, self._options.model)

    def row(self, run: Path, target: str, way: str) -> dict[str, Any]:
        """Remove blocks, heal them, and measure what was written; nothing that an interrupted row left is used."""
        with tempfile.TemporaryDirectory(dir=run) as folder, ExitStack() as stack:
            out = Path(folder) / "pruned"
            began = time.perf_counter()
            heal = way if way in ("cut", "all") else "none"
            _llmprune("remove-blocks", *self._blocks(target), "--heal", heal, "--out", out, "--no-verify",
                      "--dtype", self._options.dtype, run=run)  # fmt: skip
            seconds = time.perf_counter() - began
            model = load_whole(out, device=CPU, dtype=self._model.dtype)
            record = PruningRecord.read(out / RECORD_NAME)
            assert record.removal is not None
            if way == "upper bound":
                kept = kept_blocks(record.source.num_blocks, record.removal.removed)
                tokens = open_calibration(RunDirectory(run).calibration).tokens()
                maps = fitted_maps(self._model, kept, tokens)
                stack.enter_context(holes_filled(model, maps))
            figures = {**self._figures(model, out), "seconds": seconds, "removed": record.removal.removed}
            if record.healing is not None:
                figures["layers"] = [layer.model_dump() for layer in record.healing.layers]
            return figures

    def _blocks(self, target: str) -> tuple[str, str]:
        """Which blocks go, as options."""
        if self._options.order is None:
            return "--target", target
        order = self._options.order.split(",")
        share = float(target.removesuffix("%")) / 100
        return "--blocks", ",".join(order[: round(share * block_count(self._model.config))])

    def _figures(self, model: PreTrainedModel, directory: Path) -> dict[str, Any]:
        same = (_choices(model, self._tokens) == self._choices).double().mean()
        texts = {text_name(spec): perplexity(model, directory, spec, self._options) for spec in self._options.ppl}
        return {"perplexity": texts, "agreement": float(same)}


@torch.inference_mode()
def _choices(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """The next token that a model finds likeliest behind every token, (windows, seq_len)."""
    return torch.cat([model(window[None], use_cache=False).logits.argmax(-1) for window in tokens])


@torch.inference_mode()
def fitted_maps(dense: PreTrainedModel, kept: list[int], tokens: Tensor) -> dict[int, Correction]:
    """For each block before a hole, by its place: the map of what leaves it to what entered the block behind the hole.

    Solved in order, each on what the maps before it give; the ridge is chosen on the windows that healing holds back.
    """
    _, blocks = find_blocks(dense, dense.config)
    runner = BlockRunner(dense, blocks)
    runner.learn_returned(tokens[:1, :2])
    calls = runner.calls(tokens[:1])
    full = [runner.embed(window[None]) for window in tokens]
    left = list(full)
    entering, maps = 0, {}
    for place, block in enumerate(kept):
        goal = kept[place + 1] if place + 1 < len(kept) else len(blocks)
        left = [runner.forward_block(block, states, calls[block]) for states in left]
        for passed in range(entering, goal):
            full = [runner.forward_block(passed, states, calls[passed]) for states in full]
        entering = goal
        if goal > block + 1:
            maps[place] = _fitted(left, full)
            left = [_mapped(states, maps[place]) for states in left]
    return maps


def _fitted(left: list[Tensor], full: list[Tensor]) -> Correction:
    cut = len(left) - held_back(len(left))
    solved_on, held = (MomentsAccumulator(bias=True) for _ in range(2))
    for place, (states, goal) in enumerate(zip(left, full, strict=True)):
        states, goal = states[0].float(), goal[0].float()
        lengths = goal.norm(dim=-1)
        (solved_on if place < cut else held).update(states, goal - states, weights=1 / lengths)
    found = [correct(solved_on.result(), ridge=ridge * scale) for ridge in RIDGES for scale in (1e-3, 1)]
    return min(found, key=lambda one: remaining_error(held.result(), one))


def _mapped(states: Tensor, correction: Correction) -> Tensor:
    assert correction.bias is not None
    return states + (states.float() @ correction.weight.T + correction.bias).to(states.dtype)


@contextmanager
def holes_filled(model: PreTrainedModel, maps: dict[int, Correction]) -> Iterator[None]:
    """Let the model's blocks give what the maps make of their output."""
    _, blocks = find_blocks(model, model.config)

    def hook(correction: Correction) -> Any:
        return lambda _module, _args, output: Returned(output).around(_mapped(Returned(output).hidden, correction))

    with ExitStack() as hooks:
        for place, correction in maps.items():
            hooks.callback(blocks[place].register_forward_hook(hook(correction)).remove)
        yield


def table(known: dict[str, Any]) -> str:
    """The rows as Markdown."""
    rows = known["rows"]
    texts = list(rows["dense"]["perplexity"])
    head = ["", *(part for text in texts for part in (text, "taken back")), "greedy agreement", "seconds"]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for name, row in rows.items():
        target = name.rpartition("%")[0] + "%"
        cells = [name]
        for text in texts:
            cells += [f"{row['perplexity'][text]:.2f}", _taken_back(rows, f"{target} none", row, text)]
        seconds = f"{row['seconds']:.0f}" if "seconds" in row else ""
        cells += [f"{row['agreement']:.1%}", seconds]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _taken_back(rows: dict[str, Any], plain: str, row: dict[str, Any], text: str) -> str:
    if plain not in rows or row is rows[plain]:
        return ""
    dense, lost, now = (math.log(one["perplexity"][text]) for one in (rows["dense"], rows[plain], row))
    return f"{(lost - now) / (lost - dense):.1%}"


def _name(target: str, way: str) -> str:
    return f"{target} {way}".strip()


def _share(target: str) -> float:
    return float(target.removesuffix("%")) / (100 if target.endswith("%") else 1)


def _llmprune(*words: object, run: Path) -> None:
    command = [sys.executable, "-m", "llmprune", *map(str, words), "--run", str(run), "--quiet"]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        raise SystemExit(f"{' '.join(command[2:])} failed")


if __name__ == "__main__":
    main()
