"""Weight pruning side by side: perplexity, seconds and peak memory of `llmprune global-prune`, whole commands.

Every row runs the command in a process of its own, then measures the written checkpoint. Rows that the results
file has already are not run again, so a long table can be made in several sittings (with --run, on one and the same
calibration); run nothing beside it. A row may be followed by options of its own: --rows "sparsellm --alpha 1".

Blocks are pruned in order, and none sees what becomes of the later ones. So --first-half measures what
--layers first-half would write as well, without running it: the written first half, the other blocks dense.

    python benchmarks/weight_pruning.py MODEL --source wikitext2:wiki.train.raw --ppl wikitext2:wiki.test.raw \
        --patterns 70%,2:4 --rows sparsegpt,sparsellm --out results.json
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from results import keep_results, read_results
from transformers import PreTrainedModel
from watched import run_measured

from llmprune.evaluation.machine import describe_machine
from llmprune.evaluation.perplexity import window_losses
from llmprune.models.anatomy import find_blocks
from llmprune.models.loading import load_tokenizer, load_whole
from llmprune.text.corpora import load_corpus
from llmprune.text.windows import consecutive_windows

PAPERS = "--targets-from pruned --no-refit"  # as the papers define the method
ROWS = {
    "magnitude": "--method magnitude --targets-from pruned --no-refit",
    "magnitude+refit": "--method magnitude",
    "wanda": f"--method wanda {PAPERS}",
    "wanda+refit": "--method wanda",
    "sparsegpt": f"--method sparsegpt {PAPERS}",
    "sparsegpt+refit": "--method sparsegpt",
    "sparsellm": f"--method sparsellm {PAPERS} --rounds 4",
    "sparsellm+refit": "--method sparsellm",  # the default setting
}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--source", required=True, help="calibration text")
    parser.add_argument("--samples", default="32")
    parser.add_argument("--seq-len", default="1024")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--patterns", default="70%")
    parser.add_argument("--layers", default="all")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--ppl", action="append", required=True, help="evaluation text; can be repeated")
    parser.add_argument("--windows", type=int, help="use the first so many windows of each text")
    parser.add_argument("--ppl-seq-len", type=int, default=2048, help="tokens a window of these")
    parser.add_argument("--first-half", action="store_true", help="measure the first half of the blocks as well")
    parser.add_argument("--run", type=Path, help="run directory to keep; default: a temporary one")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(words)

    known = known_rows(options)
    with tempfile.TemporaryDirectory() as folder:
        run = options.run or Path(folder) / "run"
        calibrate = ["calibrate", options.model, "--source", options.source, "--samples", options.samples]
        _run([*calibrate, "--seq-len", options.seq_len, "--dtype", options.dtype, "--run", run, "--quiet"])
        patterns, rows = options.patterns.split(","), options.rows.split(",")
        table = [("dense", "", ""), *((row, pattern, _arguments(row)) for pattern in patterns for row in rows)]
        for row, pattern, arguments in table:
            name = " ".join([options.layers, pattern, row]) if pattern else row
            if name not in known["rows"]:
                known["rows"][name] = _measure(options, run, pattern, arguments)
                keep_results(options.out, known)
            print(name, json.dumps(known["rows"][name]), flush=True)


def known_rows(options: argparse.Namespace) -> dict[str, Any]:
    """What the results file has, which must have been measured in the same way."""
    ways = {name: getattr(options, name) for name in ("samples", "seq_len", "dtype", "windows", "ppl_seq_len")}
    texts = {"calibration": text_name(options.source), "ppl": [text_name(spec) for spec in options.ppl]}
    known = read_results(options.out, {})
    if known.setdefault("protocol", ways | texts) != ways | texts:
        raise SystemExit(f"{options.out} has rows of another protocol: {known['protocol']}; type another --out.")
    known.setdefault("rows", {})
    return known


def text_name(spec: str) -> str:
    """The file's or data set's name, wherever it lies."""
    return re.sub(r"^(wikitext2|ptb|c4):", "", spec.rsplit("/", 1)[-1])


def _arguments(row: str) -> str:
    name, _, more = row.partition(" ")
    return f"{ROWS[name]} {more}"


def _measure(options: argparse.Namespace, run: Path, pattern: str, arguments: str) -> dict[str, object]:
    """Prune (nothing, for the dense model), and measure what was written."""
    if not pattern:
        return {"perplexity": _perplexities(options.model, options)}
    with tempfile.TemporaryDirectory(dir=run) as folder:  # nothing that an interrupted row left is gone on with
        directory = Path(folder) / "pruned"
        kind = "--pattern" if ":" in pattern else "--sparsity"
        words = ["global-prune", kind, pattern, *arguments.split(), "--layers", options.layers, "--out", directory]
        figures = _run([*words, "--run", run, "--dtype", options.dtype, "--no-verify", "--quiet"])
        sparsity = json.loads((directory / "llmprune.json").read_text())["sparsity"]
        figures["processor"] = describe_machine(torch.device("cpu")).processor
        figures["zeros"] = sparsity["zeros"] / sparsity["numel"]
        figures["block_seconds"] = [block["seconds"] for block in sparsity["blocks"]]
        figures["perplexity"] = _perplexities(directory, options)
        if options.first_half:
            figures["first_half_perplexity"] = _perplexities(directory, options, first_half=True)
    return figures


def _perplexities(directory: Path, options: argparse.Namespace, *, first_half: bool = False) -> dict[str, float]:
    """Of every text, by its name; with the blocks of the second half taken from the dense model, if asked for."""
    dtype = getattr(torch, options.dtype)
    model = load_whole(directory, device=torch.device("cpu"), dtype=dtype)
    if first_half:
        dense = load_whole(options.model, device=torch.device("cpu"), dtype=dtype)
        (_, blocks), (_, whole) = (find_blocks(some, some.config) for some in (model, dense))
        for index in range(len(blocks) // 2, len(blocks)):
            blocks[index] = whole[index]
    return {text_name(spec): perplexity(model, directory, spec, options) for spec in options.ppl}


def perplexity(model: PreTrainedModel, directory: Path, spec: str, options: argparse.Namespace) -> float:
    corpus = load_corpus(spec, purpose="evaluation")
    length, count = options.ppl_seq_len, options.windows
    windows = consecutive_windows(corpus, load_tokenizer(directory), seq_len=length, max_windows=count)
    losses = window_losses(model, windows.tokens, batch_tokens=2048)
    return math.exp(sum(losses) / len(losses))


def _run(words: list[object]) -> dict[str, Any]:
    """Run llmprune: wall seconds, and the largest resident memory in MB."""
    took = run_measured([sys.executable, "-m", "llmprune", *words])
    return {"seconds": took.seconds, "peak_mb": took.peak_bytes / 1e6}


if __name__ == "__main__":
    main()
