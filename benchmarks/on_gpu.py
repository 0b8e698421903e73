"""Whether a GPU computes what the CPU does, and how fast: one command, under eight minutes on one H100.

    python benchmarks/on_gpu.py --out on_gpu.json          # all parts; those that the file has are not run again
    python benchmarks/on_gpu.py --parts right --out on_gpu.json
    python benchmarks/on_gpu.py --page on_gpu.json          # the table of docs/scaling.md

Parts:

- right: SmolLM2, or without it a small Llama trained here, on CPU and device in float32. Same removal order, losses
  within 1e-4; masks of SparseGPT and SparseLLM (the share of weights on which they differ is told), perplexities
  within 0.5%, exact counts of zeros and 2:4, and two runs with the same bytes.
- sizes: a checkpoint of Llama-2-7B's shape, random, bfloat16: seconds and peak memory of calibrate, of one round of the
  search (eliminating, exhaustive, and the naive loop beside it), and of global-prune for each block.
- speeds: generation and prompts, dense against 20% of the blocks removed, over the ideal ratio; and 2:4 weights through
  torch's own semi-structured kernels.

Without a GPU all of it runs at a toy size on the CPU, so that it is right the first time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pydoc_data.topics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from results import keep_results, read_results
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from on_gpu_models import naive_loop, random_llama, semi_structured, trained

from llmprune.cli.app import app
from llmprune.evaluation.latency import peak_memory
from llmprune.evaluation.machine import describe_machine
from llmprune.models.demo import demo_model
from llmprune.models.timing import now
from tests.tiny import save_tiny_llama


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        letters: of the text that is used.
        text: windows and tokens for the comparison of devices; pruned: methods and patterns that are compared.
        large: the large model's LlamaConfig; windows: of its calibration, and tokens in each.
        few: windows of the exhaustive search and of the naive loop; generation: options of bench.
        matrix: rows and columns of a weight for the semi-structured kernels.
    """

    letters: int
    text: tuple[str, str]
    pruned: tuple[tuple[str, str], ...]
    large: dict[str, int]
    windows: tuple[int, int]
    few: int
    generation: tuple[str, ...]
    matrix: int


_HEADS = {"num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096, "vocab_size": 32000}
LLAMA_2_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, **_HEADS}
_ALL = tuple((method, pattern) for method in ("sparsegpt", "sparsellm") for pattern in ("50%", "2:4"))
REAL = Size(
    10**9, ("16", "256"), _ALL, LLAMA_2_7B, (128, 2048), 4, ("--batch", "64", "--gen", "128", "--prefill", "2048"), 4096
)
_TINY = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64, "vocab_size": 128}
TOY = Size(
    20_000,
    ("6", "16"),
    (("sparsegpt", "2:4"), ("sparsellm", "50%")),
    {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5, **_TINY},
    (4, 16),
    2,
    ("--batch", "2", "--gen", "4", "--prompt", "4", "--prefill", "8", "--repeats", "2"),
    32,
)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="right,sizes,speeds")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--toy", action="store_true", help="the toy size, even with a GPU")
    parser.add_argument("--page", type=Path, metavar="JSON", help="print the table of a results file, and stop")
    args = parser.parse_args(words)
    if args.page is not None:
        print(table(read_results(args.page)))
        return
    with tempfile.TemporaryDirectory(prefix="on-gpu-") as folder:
        work = Work(Path(folder), TOY if args.toy or not torch.cuda.is_available() else REAL, args.out)
        for part in args.parts.split(","):
            PARTS[part](work)
    print(table(work.results))


class Work:
    """The folder, the device and what was found so far."""

    def __init__(self, folder: Path, size: Size, out: Path | None) -> None:
        self.folder, self.size, self._out = folder, size, out
        self.device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
        self.text = folder / "docs.txt"
        self.text.write_text("\n\n".join(pydoc_data.topics.topics.values())[: size.letters], encoding="utf-8")
        machine = {"torch": torch.__version__, **describe_machine(self.device).model_dump(mode="json")}
        self.results = read_results(out, {"machine": machine, "toy": size is TOY, "rows": {}})

    def row(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A result by its name, measured now if the file has none."""
        rows = self.results["rows"]
        if name not in rows:
            rows[name] = measure()
            print(f"{name}: {rows[name]}", file=sys.stderr)
            keep_results(self._out, self.results)
        found: dict[str, Any] = rows[name]
        return found

    def run(self, *words: object, device: torch.device | None = None) -> dict[str, Any]:
        """A command in this process: its JSON, with its seconds and its peak memory on the device beside."""
        device = device or self.device
        with peak_memory(device) as peak:
            began = now(device)
            result = CliRunner().invoke(app, [*map(str, words), "--device", str(device), "--json"])
            seconds = now(device) - began
            most = peak()
        if result.exit_code:
            raise SystemExit(f"llmprune {' '.join(map(str, words))}\n{result.stderr}")
        return {**json.loads(result.stdout), "seconds": seconds, "peak": most}


def right(work: Work) -> None:
    """The device beside the CPU, in float32."""
    model, samples = small_model(work), ["--samples", work.size.text[0], "--seq-len", work.size.text[1]]
    runs = {name: work.folder / f"right-{name}" for name in ("cpu", "device")}
    places = {"cpu": torch.device("cpu"), "device": work.device}

    def prepare(name: str) -> dict[str, Any]:
        text = ["--source", work.text, *samples, "--dtype", "float32", "--run", runs[name]]
        work.run("calibrate", model, *text, device=places[name])
        return work.run("verify-redundancy", "--target", "2", "--run", runs[name], device=places[name])

    def searched() -> dict[str, Any]:
        one, other = (prepare(name) for name in runs)
        losses = [[decided["loss"] for decided in found["rounds"]] for found in (one, other)]
        apart = max(abs(a - b) for a, b in zip(*losses, strict=True))
        return {"same order": one["order"] == other["order"], "losses apart": apart, "allowed": 1e-4}

    work.row("right: search", searched)
    for method, pattern in work.size.pruned:
        work.row(f"right: {method} {pattern}", lambda one=(method, pattern): pruned(work, runs, places, *one))


def pruned(
    work: Work, runs: dict[str, Path], places: dict[str, torch.device], method: str, pattern: str
) -> dict[str, Any]:
    """One method by one pattern, on the CPU, on the device, and on the device again."""
    made: dict[str, dict[str, Tensor]] = {}
    ppl, hashes, counts, option = {}, {}, {}, "--pattern" if ":" in pattern else "--sparsity"
    for name in ("cpu", "device", "again"):
        side = "device" if name == "again" else name
        out = work.folder / f"{method}-{pattern.replace(':', 'of')}-{name}"
        asked = [
            "--method",
            method,
            option,
            pattern,
            "--layers",
            "0-1",
            "--no-verify",
            "--run",
            runs[side],
            "--out",
            out,
        ]
        record = work.run("global-prune", *asked, "--no-verify", device=places[side])
        names = [matrix["tensor"] for block in record["sparsity"]["blocks"] for matrix in block["matrices"]]
        weights = load_file(out / "model.safetensors")
        made[name] = {tensor: weights[tensor] for tensor in names}
        hashes[name] = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
        counts[name] = sum(int((one == 0).sum()) for one in made[name].values())
        if name != "again":
            measure = ["--no-speed", "--ppl", work.text, "--ppl-seq-len", work.size.text[1], "--max-windows", "8"]
            bench = ["bench", out, *measure, "--agreement", "0", "--dtype", "float32", "--run", runs[side]]
            ppl[name] = work.run(*bench, device=places[side])["model"]["perplexity"][0]["perplexity"]["value"]
    total = sum(one.numel() for one in made["cpu"].values())
    other = sum(int(((made["cpu"][one] == 0) != (made["device"][one] == 0)).sum()) for one in made["cpu"])
    groups = all(int((one.view(-1, 4) == 0).sum(1).min()) >= 2 for one in made["device"].values())
    return {
        "masks differ": other / total,
        "perplexities apart": abs(ppl["device"] / ppl["cpu"] - 1),
        "allowed": 0.005,
        "same counts": counts["cpu"] == counts["device"],
        "2:4 holds": groups if ":" in pattern else None,
        "same bytes": hashes["device"] == hashes["again"],
    }


def sizes(work: Work) -> None:
    """Seconds and peak memory of the stages on the large model."""
    model, run, (windows, seq_len) = (
        random_llama(work.folder / "large", work.size.large, work.device),
        work.folder / "large-run",
        work.size.windows,
    )
    text = ["--source", work.text, "--seq-len", seq_len]
    few, plain = work.folder / "few-run", {"candidates": 3, "windows": work.size.few, "seq_len": seq_len}
    blocks = work.size.large["num_hidden_layers"]

    def told(found: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"seconds": found["seconds"], "peak": found["peak"], **more}

    def searched(place: Path, *options: object) -> dict[str, Any]:
        found = work.run("verify-redundancy", "--target", "1", *options, "--force", "--run", place)
        forwards, all_of_them = (found["rounds"][0][name] for name in ("block_forwards", "naive_block_forwards"))
        return told(found, forwards=forwards, naive=all_of_them)

    def pruning(*options: object) -> dict[str, Any]:
        asked = ["--layers", "0-1", "--no-verify", "--out", work.folder / "pruned", "--force", "--run", run]
        found = work.run("global-prune", "--targets-from", "pruned", *options, *asked)
        each = found["sparsity"]["blocks"][-1]["seconds"]
        return {"seconds": each * blocks, "block": each, "peak": found["peak"]}

    calibrated = ["calibrate", model, *text]
    work.row("sizes: calibrate", lambda: told(work.run(*calibrated, "--samples", windows, "--run", run)))
    if not run.exists():
        work.run(*calibrated, "--samples", windows, "--run", run)
    if not few.exists():
        work.run(*calibrated, "--samples", work.size.few, "--run", few)
    work.row("sizes: a round, eliminating", lambda: searched(run))
    work.row("sizes: a round, exhaustive on few windows", lambda: searched(few, "--search", "exhaustive"))
    work.row("sizes: the naive loop on few windows", lambda: naive_loop(model, work.device, **plain))
    work.row("sizes: global-prune sparsegpt", lambda: pruning("--method", "sparsegpt", "--no-refit"))
    work.row("sizes: global-prune sparsellm", lambda: pruning("--method", "sparsellm", "--no-refit", "--rounds", "4"))
    small = ["--method", "sparsegpt", "--no-refit", "--memory-budget", "8GB"]
    work.row("sizes: global-prune sparsegpt, 8 GB", lambda: pruning(*small))


def speeds(work: Work) -> None:
    """What removed blocks and 2:4 weights make faster."""
    model, run = random_llama(work.folder / "large", work.size.large, work.device), work.folder / "speed-run"
    blocks = work.size.large["num_hidden_layers"]
    gone, first = -(-blocks // 5), (blocks - -(-blocks // 5)) // 2

    def faster() -> dict[str, Any]:
        names, smaller = ",".join(str(block) for block in range(first, first + gone)), work.folder / "smaller"
        work.run("remove-blocks", model, "--blocks", names, "--no-verify", "--out", smaller, "--run", run)
        found = work.run("bench", smaller, "--no-ppl", "--agreement", "0", *work.size.generation, "--run", run)
        ideal = found["baseline"]["num_parameters"] / found["model"]["num_parameters"]
        ratios = {name: found["metrics"][f"{name}_ratio"]["value"] for name in ("generation", "prompt")}
        return {"ideal": ideal, **ratios, **{f"{name} over ideal": one / ideal for name, one in ratios.items()}}

    work.row("speeds: 20% of the blocks removed", faster)
    work.row("speeds: 2:4 by torch's own kernels", lambda: semi_structured(work.size.matrix, work.device))


def small_model(work: Work) -> Path:
    """SmolLM2; without it, or at the toy size, a small Llama."""
    if work.results["toy"]:
        return save_tiny_llama(work.folder / "tiny")
    return demo_model() or trained(work.folder / "trained", work.text.read_text(encoding="utf-8"), work.device)


PARTS = {"right": right, "sizes": sizes, "speeds": speeds}


def table(results: dict[str, Any]) -> str:
    """A row for each result, as docs/scaling.md has it."""
    machine = results["machine"]
    where = f"{machine['processor']}, torch {machine['torch']}"
    lines = [f"| {where}{' (toy size)' if results['toy'] else ''} | found |", "|---|---|"]
    for name, row in results["rows"].items():
        cells = ", ".join(f"{key} {_spell(key, value)}" for key, value in row.items() if value is not None)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def _spell(key: str, value: Any) -> str:
    if key == "peak":
        return f"{value / 1e9:.3g} GB"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
