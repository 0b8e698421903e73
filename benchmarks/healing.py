"""Removed blocks, healed and not: perplexity and greedy agreement, beside the dense model and an upper bound.

Blocks are ranked once by SLEB, on windows of --search-samples and --search-seq-len. Each row removes a share of them by
`llmprune remove-blocks`, with --heal none, cut or all, and measures the written checkpoint. `healed search` takes the
blocks of `verify-redundancy --heal` instead, and heals all; `swapped search` the same behind --swap. `upper bound` is
no checkpoint: the holes of the plain one are filled with full linear maps of the hidden states (arXiv 2605.15491),
which no stock model has. Greedy agreement is the share of next tokens on which dense and pruned model agree, on the
windows of the first --ppl text. `taken back` is the share of the log-perplexity that the removal lost. --tasks adds
accuracies, by lm-eval.

--vary-samples, --vary-source and --vary-ridge add rows of --heal all, of the first target and the same blocks, each
calibrated in another way or with one ridge alone. MODEL is of any family, such as the OPT of trained_opt.py
(with --blocks 12; its positions bound --seq-len and --ppl-seq-len).

Rows that the results file has already are not run again, so a long table can be made in several sittings (with --run,
on one and the same calibration and ranking). Type the last line again to print the table.

    python benchmarks/healing.py MODEL --source wikitext2:wiki.train.raw --ppl wikitext2:wiki.test.raw \
        --ppl c4:c4_text.jsonl --run RUN --out results.json --tasks piqa_local,arc_easy_local --limit 500 \
        --lm-eval-include lm_eval_tasks --vary-samples 4,8,16,32,64,128 --vary-source c4:c4_text.jsonl \
        --vary-source self --vary-source python-docs --vary-ridge 0.001,0.01,0.1,0.3,1,3
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from linear_maps import fitted_maps, holes_filled
from results import keep_results
from torch import Tensor
from transformers import PreTrainedModel
from weight_pruning import known_rows, perplexity, text_name

import llmprune
from llmprune.artifacts.activations import open_calibration
from llmprune.artifacts.checkpoints.block_numbers import kept_blocks
from llmprune.artifacts.records.importance import Importance
from llmprune.artifacts.records.pruning import RECORD_NAME, PruningRecord
from llmprune.artifacts.run import RunDirectory
from llmprune.evaluation.machine import describe_machine
from llmprune.models.anatomy import block_count
from llmprune.models.loading import load_tokenizer, load_whole
from llmprune.text.corpora import load_corpus
from llmprune.text.windows import consecutive_windows

WAYS = ("none", "cut", "all", "healed search", "swapped search", "upper bound")
HEALED = {"none": "none", "cut": "cut", "upper bound": "none"}  # all other ways: all
SWAPS = 5
# The command line, whose healing has one ridge to choose from.
ONE_RIDGE = (
    "import llmprune.stages.healing.plan as plan; plan.RIDGES = ({},); from llmprune.cli.app import main; main()"
)
CPU = torch.device("cpu")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--source", required=True, help="calibration text")
    parser.add_argument("--samples", default="32")
    parser.add_argument("--seq-len", default="1024")
    parser.add_argument("--search-samples", help="windows that blocks are ranked on; default: as --samples")
    parser.add_argument("--search-seq-len", help="tokens in each of these; default: as --seq-len")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--targets", default="10%,20%,30%")
    parser.add_argument("--order", help="blocks in the order of an earlier search, in place of a new one")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--ppl", action="append", required=True, help="evaluation text; can be repeated")
    parser.add_argument("--windows", type=int, help="use the first so many windows of each text")
    parser.add_argument("--ppl-seq-len", type=int, default=2048, help="tokens a window of these")
    parser.add_argument("--tasks", default="", help="zero-shot tasks, by lm-eval's names")
    parser.add_argument("--lm-eval-include", type=Path, help="a folder with their task files")
    parser.add_argument("--limit", type=int, help="items of each task")
    parser.add_argument("--vary-samples", default="", help="numbers of calibration windows")
    parser.add_argument("--vary-source", action="append", default=[], help="calibration text; can be repeated")
    parser.add_argument("--vary-ridge", default="", help="ridges, relative to the mean diagonal")
    parser.add_argument("--run", type=Path, help="run directory to keep; default: a temporary one")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(words)

    known = known_rows(options)
    if options.order is None and known.setdefault("search", searched_on(options)) != searched_on(options):
        raise SystemExit(f"{options.out} has rows of a search on {known['search']}; type another --out.")
    known["processor"] = describe_machine(CPU).processor
    with tempfile.TemporaryDirectory() as folder:
        run = options.run or Path(folder) / "run"
        targets = options.targets.split(",")
        rows = [("dense", "")] + [(target, way) for target in targets for way in options.ways.split(",")]
        rows += [(targets[0], way) for way in varied(options)]
        if missing := [row for row in rows if _name(*row) not in known["rows"]]:
            _calibrate(options, run)
            largest, ways = max(targets, key=_share), {way for _, way in missing}
            if options.order is None:
                _search(options, _plain_search(run), "--target", largest)
            if ways & {"healed search", "swapped search"}:
                _search(options, _healed_search(run), "--target", largest, "--heal")
            dense = Dense(options)
        for row in missing:
            known["rows"][_name(*row)] = dense.measured() if row[0] == "dense" else dense.row(run, *row)
            keep_results(options.out, known)
            print(_name(*row), json.dumps(known["rows"][_name(*row)]), flush=True)
    print(table(known))


def varied(options: argparse.Namespace) -> dict[str, tuple[str, str]]:
    """The rows that vary one thing: by name, what it is and its value."""
    kinds = {
        "samples": options.vary_samples.split(","),
        "source": options.vary_source,
        "ridge": options.vary_ridge.split(","),
    }
    return {
        f"all, {kind} {text_name(value)}": (kind, value) for kind, values in kinds.items() for value in values if value
    }


def searched_on(options: argparse.Namespace) -> dict[str, str]:
    """The windows that blocks are ranked on."""
    length = options.search_seq_len or options.seq_len
    return {"samples": options.search_samples or options.samples, "seq_len": length}


def _calibrate(options: argparse.Namespace, run: Path, **others: str) -> None:
    taken = {"source": options.source, "samples": options.samples, "seq_len": options.seq_len, **others}
    _llmprune("calibrate", options.model, "--source", taken["source"], "--samples", taken["samples"],
              "--seq-len", taken["seq_len"], "--dtype", options.dtype, run=run)  # fmt: skip


def _search(options: argparse.Namespace, run: Path, *words: object) -> None:
    """A ranking in a run directory of its own: it has one, and one calibration."""
    _calibrate(options, run, **searched_on(options))
    _llmprune("verify-redundancy", *words, run=run)


def _plain_search(run: Path) -> Path:
    return run.with_name(f"{run.name}-search")


def _healed_search(run: Path) -> Path:
    return run.with_name(f"{run.name}-healed-search")


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
            self._remove(run, Path(folder), target, way, out)
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

    def _remove(self, run: Path, folder: Path, target: str, way: str, out: Path) -> None:
        """Write the checkpoint of a row."""
        heal, ridge = HEALED.get(way, "all"), None
        blocks = self._blocks(run, folder, target, way)
        if way in (others := varied(self._options)):
            kind, value = others[way]
            ridge = value if kind == "ridge" else None
            if ridge is None:
                run = folder / "run"
                _calibrate(self._options, run, **{kind: value})
        _llmprune("remove-blocks", "--blocks", ",".join(map(str, blocks)), "--heal", heal,
                  "--out", out, "--no-verify", "--dtype", self._options.dtype, run=run, ridge=ridge)  # fmt: skip

    def _blocks(self, run: Path, folder: Path, target: str, way: str) -> Sequence[int]:
        """Which blocks go."""
        depth = block_count(self._model.config)
        count = math.ceil(round(_share(target) * depth, 6)) if target.endswith("%") else int(target)
        ranked = _plain_search(run)
        if way == "healed search":
            ranked = _healed_search(run)
        elif way == "swapped search":  # each target has swaps of its own, behind one and the same search
            ranked = folder / "swapped"
            shutil.copytree(_healed_search(run), ranked)
            _llmprune("verify-redundancy", "--target", target, "--heal", "--swap", SWAPS, run=ranked)
        elif self._options.order is not None:
            return tuple(map(int, self._options.order.split(",")))[:count]
        return Importance.read(RunDirectory(ranked).importance).first(count)

    def _figures(self, model: PreTrainedModel, directory: Path) -> dict[str, Any]:
        same = (_choices(model, self._tokens) == self._choices).double().mean()
        texts = {text_name(spec): perplexity(model, directory, spec, self._options) for spec in self._options.ppl}
        return {"perplexity": texts, "agreement": float(same), **self._accuracies(model, directory)}

    def _accuracies(self, model: PreTrainedModel, directory: Path) -> dict[str, dict[str, float]]:
        """Accuracy on each task, by the metric that lm-eval names last (of PIQA and ARC, the normalised one)."""
        tasks = tuple(filter(None, self._options.tasks.split(",")))
        if not tasks:
            return {}
        measured = llmprune.bench(
            model,
            ppl=None,
            tasks=tasks,
            lm_eval_include=self._options.lm_eval_include,
            limit=self._options.limit,
            speed=False,
            tokenizer=load_tokenizer(directory),
        )
        found = {name.rpartition(".")[2]: one.value for name, one in measured.metrics.items() if name.startswith("acc")}
        return {"accuracy": {task: found[task] for task in tasks}}


@torch.inference_mode()
def _choices(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """The next token that a model finds likeliest behind every token, (windows, seq_len)."""
    return torch.cat([model(window[None], use_cache=False).logits.argmax(-1) for window in tokens])


def table(known: dict[str, Any]) -> str:
    """The rows as Markdown."""
    rows = known["rows"]
    texts = list(rows["dense"]["perplexity"])
    tasks = list(rows["dense"].get("accuracy", ()))
    head = ["", *(part for text in texts for part in (text, "taken back")), *tasks, "greedy agreement", "seconds"]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for name, row in rows.items():
        target = name.rpartition("%")[0] + "%"
        cells = [name]
        for text in texts:
            cells += [f"{row['perplexity'][text]:.2f}", _taken_back(rows, f"{target} none", row, text)]
        seconds = f"{row['seconds']:.0f}" if "seconds" in row else ""
        cells += [f"{row['accuracy'][task]:.1%}" for task in tasks] + [f"{row['agreement']:.1%}", seconds]
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


def _llmprune(*words: object, run: Path, ridge: str | None = None) -> None:
    program = ["-m", "llmprune"] if ridge is None else ["-c", ONE_RIDGE.format(float(ridge))]
    typed = [*map(str, words), "--run", str(run), "--quiet"]
    if subprocess.run([sys.executable, *program, *typed], stdout=subprocess.DEVNULL).returncode:
        raise SystemExit(f"llmprune {' '.join(typed)} failed")


if __name__ == "__main__":
    main()
