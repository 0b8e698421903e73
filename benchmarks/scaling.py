"""What a model larger than the memory budget costs: peak memory, bytes read and seconds of each command.

Parts, each measured once and kept in the JSON file (delete its entry to measure it again):

- ``7b``: a random checkpoint of Llama-2-7B's shape in bfloat16, written block by block, and every command on it under
  ``--memory-budget``, each in a process of its own.
- ``depth``: calibration of a small shape with 12, 24 and 48 blocks: seconds a block, and the peak.
- ``streamed``: one round of the search whose blocks are read whenever they are opened, against the same reading alone
  and the same computing alone (all blocks in memory), of the same small shape.

Peaks are the kernel's (``VmHWM`` of ``/proc/PID/status``). Bytes read are what the process asked the kernel for
(``rchar`` of ``/proc/PID/io``). Both only grow, and are looked at until the process ends. Blocks are read by such
calls, whether the page cache has them or not. ``from_disk`` is what of it came from the disk (``read_bytes``).

    python benchmarks/scaling.py --folder /scratch/scaling --out benchmarks/scaling.json
    python benchmarks/scaling.py --page benchmarks/scaling.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import torch
from results import keep_results, read_results
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, PreTrainedTokenizerFast
from watched import Measured, run_measured

from llmprune.artifacts.checkpoints.checkpoint import INDEX_NAME

LLAMA_2_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
LLAMA_2_7B |= {"vocab_size": 32000, "max_position_embeddings": 4096}
SMALL = {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16, "vocab_size": 4096}
SMALL |= {"max_position_embeddings": 2048}


def write_random_llama(folder: Path, shape: dict[str, int], *, dtype: torch.dtype) -> int:
    """Write a random Llama with a tokenizer of bytes, a shard for each block; returns its bytes.

    One block is in memory at a time. A finished checkpoint is left as it is.
    """
    index = folder / INDEX_NAME
    if not index.exists():
        folder.mkdir(parents=True, exist_ok=True)
        config = LlamaConfig(**shape, num_key_value_heads=shape["num_attention_heads"], dtype=dtype, pad_token_id=0)
        config.architectures = ["LlamaForCausalLM"]
        config.save_pretrained(folder)
        _tokenizer().save_pretrained(folder)
        generator, weight_map, total = torch.Generator().manual_seed(0), {}, 0
        for shard, tensors in _shards(config, dtype, generator):
            save_file(tensors, folder / shard, {"format": "pt"})
            weight_map |= dict.fromkeys(tensors, shard)
            total += sum(tensor.nbytes for tensor in tensors.values())
        index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    return int(json.loads(index.read_text())["metadata"]["total_size"])


def _shards(config: LlamaConfig, dtype: torch.dtype, generator: torch.Generator) -> Iterator[tuple[str, dict]]:
    def matrix(rows: int, columns: int) -> Tensor:
        return torch.empty(rows, columns, dtype=dtype).normal_(std=0.02, generator=generator)

    width, inner = config.hidden_size, config.intermediate_size
    outside = {"model.embed_tokens.weight": matrix(config.vocab_size, width)}
    outside["lm_head.weight"] = matrix(config.vocab_size, width)
    yield "outside.safetensors", {**outside, "model.norm.weight": torch.ones(width, dtype=dtype)}
    for block in range(config.num_hidden_layers):
        tensors = {f"self_attn.{name}_proj": matrix(width, width) for name in "qkvo"}
        tensors |= {"mlp.gate_proj": matrix(inner, width), "mlp.up_proj": matrix(inner, width)}
        tensors["mlp.down_proj"] = matrix(width, inner)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[norm] = torch.ones(width, dtype=dtype)
        named = {f"model.layers.{block}.{name}.weight": tensor for name, tensor in tensors.items()}
        yield f"block-{block:03d}.safetensors", named


def _tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, so that any text serves and none has to be learnt from."""
    letters = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({letter: place for place, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def _row(measured: Measured, model_bytes: int) -> dict[str, float]:
    return {
        "seconds": round(measured.seconds, 1),
        "peak_gb": round(measured.peak_bytes / 1e9, 3),
        "read_gb": round(measured.bytes_read / 1e9, 3),
        "from_disk_gb": round(measured.from_disk / 1e9, 3),
        "read_in_models": round(measured.bytes_read / model_bytes, 2),
    }


def _planned(total: dict[str, float]) -> dict[str, float]:
    """What --plan says of the same figures."""
    memory, read = (round(total[name] / 1e9, 3) for name in ("host", "read"))
    return {"planned_peak_gb": memory, "planned_read_gb": read, "planned_seconds": round(total["seconds"], 1)}


def commands(model: Path, run: Path, options: argparse.Namespace) -> dict[str, list[str | Path]]:
    """The commands of part ``7b``, by name, in order."""
    common = ["--run", run, "--memory-budget", options.budget, "--quiet"]
    ppl = ["--ppl-seq-len", str(options.seq_len)]
    windows = ["--source", options.source, "--samples", str(options.samples), "--seq-len", str(options.seq_len)]
    return {
        "calibrate": ["calibrate", model, *windows, *common],
        "search": ["verify-redundancy", "--target", str(options.rounds), *common],
        "remove-blocks": ["remove-blocks", "--target", str(options.rounds), *common],
        "global-prune": ["global-prune", "--sparsity", "50%", "--layers", "0-1", *common],
        "bench": ["bench", "--no-speed", "--max-windows", "2", "--ppl", options.source, *ppl, *common],
    }


def measure_7b(options: argparse.Namespace, results: Results) -> None:
    """Every command on a model of Llama-2-7B's shape."""
    model, run = options.folder / "model", options.folder / "run"
    shape = {**LLAMA_2_7B, **json.loads(options.shape or "{}")}
    model_bytes = write_random_llama(model, shape, dtype=torch.bfloat16)
    for name, words in commands(model, run, options).items():
        if name not in results.of("7b"):
            planned = json.loads(run_measured([sys.executable, "-m", "llmprune", *words, "--plan", "--json"]).output)
            measured = run_measured([sys.executable, "-m", "llmprune", *words])
            row = {**_row(measured, model_bytes), "budget": options.budget, "model_gb": round(model_bytes / 1e9, 2)}
            row["windows"] = f"{options.samples} x {options.seq_len}"
            row |= _planned(planned["total"])
            if name == "search":
                row["read_in_models_a_round"] = round(row["read_in_models"] / options.rounds, 2)
            results.keep("7b", name, row)


def measure_depth(options: argparse.Namespace, results: Results) -> None:
    """Calibration of 12, 24 and 48 blocks."""
    for blocks in options.depths:
        if str(blocks) not in results.of("depth"):
            model = options.folder / f"small-{blocks}"
            model_bytes = write_random_llama(model, _small(options, blocks), dtype=torch.float32)
            measured = run_measured([sys.executable, __file__, "--child", "dense", model, options.seq_len])
            found = json.loads(measured.output.splitlines()[-1])
            row = {**_row(measured, model_bytes), "seconds_a_block": round(found["seconds"] / blocks, 4)}
            results.keep("depth", str(blocks), row)


def measure_streamed(options: argparse.Namespace, results: Results) -> None:
    """A streamed round against reading alone and computing alone."""
    if results.of("streamed"):
        return
    model = options.folder / f"small-{options.depths[0]}"
    write_random_llama(model, _small(options, options.depths[0]), dtype=torch.float32)
    measured = run_measured([sys.executable, __file__, "--child", "round", model, options.seq_len])
    for name, value in json.loads(measured.output.splitlines()[-1]).items():
        results.keep("streamed", name, value)


def _small(options: argparse.Namespace, blocks: int) -> dict[str, int]:
    return {**SMALL, **json.loads(options.small_shape or "{}"), "num_hidden_layers": blocks}


def time_dense(model: Path, seq_len: int) -> dict[str, float]:
    """Seconds of a pass over the dense model, in this process."""
    from llmprune.models.compute import choose_compute
    from llmprune.models.loading import open_decoder
    from llmprune.stages.calibration import measure_dense
    from llmprune.stages.common.progress import Silent

    compute = choose_compute("cpu")
    decoder = open_decoder(model, device=compute.device)
    tokens = _tokens(4, seq_len)
    began = time.monotonic()
    measure_dense(decoder, tokens, model / "pass", compute, Silent())
    seconds = time.monotonic() - began
    shutil.rmtree(model / "pass", ignore_errors=True)
    return {"seconds": seconds}


def time_round(model: Path, seq_len: int, *, repeats: int = 3) -> dict[str, float]:
    """Seconds of a round whose blocks are read, of this reading alone, and of a round in memory: medians, in turn."""
    from llmprune.algorithms.blocks.elimination import EliminationRule
    from llmprune.algorithms.blocks.search import greedy_rounds
    from llmprune.models.loading import open_decoder
    from llmprune.stages.block_search.evaluator import WindowEvaluator

    cpu, tokens = torch.device("cpu"), _tokens(8, seq_len)
    streamed, kept = open_decoder(model, device=cpu), open_decoder(model, device=cpu)
    kept.keep(device=2**62, host=0)
    blocks = range(len(kept.blocks))

    def searched(decoder: object) -> list:
        return list(greedy_rounds(WindowEvaluator(decoder, tokens, batch_size=4), count=1, rule=EliminationRule()))

    def walked() -> None:
        for _ in range(len(EliminationRule.looks(len(tokens))) + 1):
            for block in blocks:
                with streamed.block(block):
                    pass

    actions = {"computing": lambda: searched(kept), "reading": walked, "streamed": lambda: searched(streamed)}
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    assert searched(kept)[0] == searched(streamed)[0], "no number depends on where blocks are"
    for _ in range(repeats):
        for name, action in actions.items():
            began = time.monotonic()
            action()
            seconds[name].append(time.monotonic() - began)
    found = {name: round(median(times), 4) for name, times in seconds.items()}
    return {**found, "ratio": round(found["streamed"] / max(found["computing"], found["reading"]), 3)}


def _tokens(windows: int, seq_len: int) -> Tensor:
    return torch.randint(3, 250, (windows, seq_len), generator=torch.Generator().manual_seed(0))


class Results:
    """The JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts: dict[str, dict] = read_results(path, {})

    def of(self, part: str) -> dict:
        return self._parts.get(part, {})

    def keep(self, part: str, name: str, value: object) -> None:
        self._parts.setdefault(part, {})[name] = value
        keep_results(self._path, self._parts)
        print(part, name, value, flush=True)


def page(parts: dict[str, dict]) -> str:
    """The tables of the documentation."""
    lines = [
        "| Llama-2-7B's shape, 4 GB | windows | peak, GB | planned | read, models | seconds |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in parts.get("7b", {}).items():
        planned, seconds = (f"{row[key]:g}" if key in row else "" for key in ("planned_peak_gb", "seconds"))
        peak, models = f"{row['peak_gb']:.2f}", f"{row['read_in_models']:.2f}"
        lines.append(f"| `{name}` | {row['windows']} | {peak} | {planned} | {models} | {seconds} |")
    lines += ["", "| blocks | seconds a block | peak, GB |", "|---:|---:|---:|"]
    for blocks, row in parts.get("depth", {}).items():
        lines.append(f"| {blocks} | {row['seconds_a_block']:.3f} | {row['peak_gb']:.3f} |")
    if streamed := parts.get("streamed"):
        lines += ["", "| computing alone | reading alone | streamed | over the larger |", "|---:|---:|---:|---:|"]
        cells = [f"{streamed[name]:.2f} s" for name in ("computing", "reading", "streamed")]
        lines.append(f"| {' | '.join(cells)} | {streamed['ratio']:.2f} |")
    return "\n".join(lines)


PARTS = {"7b": measure_7b, "depth": measure_depth, "streamed": measure_streamed}
CHILDREN = {"dense": time_dense, "round": time_round}


def main(words: Sequence[str] | None = None) -> None:
    """Measure what the file does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where checkpoints and runs go: 30 GB")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--budget", default="4GB")
    parser.add_argument("--source", default="python-docs")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--depths", type=lambda text: [int(part) for part in text.split(",")], default=[12, 24, 48])
    parser.add_argument("--shape", help="JSON: other numbers than Llama-2-7B's")
    parser.add_argument("--small-shape", help="JSON: other numbers than the small shape's")
    parser.add_argument("--page", type=Path, metavar="JSON", help="print the tables of a results file, and stop")
    parser.add_argument("--child", nargs=3, metavar=("WHAT", "MODEL", "SEQ_LEN"), help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.page is not None:
        print(page(read_results(options.page)))
        return
    if options.child:
        print(json.dumps(CHILDREN[options.child[0]](Path(options.child[1]), int(options.child[2]))))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    results = Results(options.out)
    for part in options.parts.split(","):
        PARTS[part](options, results)


if __name__ == "__main__":
    main()
