"""How fast and how small `copy_tensors` is beside ``cp -r`` of the same files.

    python benchmarks/copy_speed.py                     # makes 4 GiB in a temporary folder, measures, deletes
    python benchmarks/copy_speed.py --make DIR --gib 4  # only makes the checkpoint, for other measurements
    python benchmarks/copy_speed.py --source DIR        # measures on a checkpoint that is there

The checkpoint is a Llama with random bfloat16 weights. ``cp -r`` copies all of it; `copy_tensors` copies all
but a fifth of the blocks, renumbered, as remove-blocks does, or ("copy all") every tensor. "atomic" runs end
when the output is flushed to the disk, the others, like ``cp``, when it is in the page cache. Runs alternate;
before each, earlier writes are flushed, and with ``--cold`` the source is dropped from the page cache.
"""

import argparse
import json
import math
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.artifacts.checkpoints.copying import copy_tensors
from llmprune.artifacts.checkpoints.finiteness import find_non_finite
from llmprune.artifacts.checkpoints.layout import shard_names, split_by_size, write_index
from llmprune.artifacts.files.atomic import atomic_directory

HIDDEN, INTERMEDIATE, VOCAB, HEADS = 2048, 8192, 32000, 16
BLOCK_BYTES = 2 * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INTERMEDIATE)
VARIANTS = ("cp -r", "copy all", "copy", "copy, checked", "copy, atomic", "copy, checked, atomic")


def llama_tensors(num_blocks: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every weight, in the model's order."""
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for block in range(num_blocks):
        prefix = f"model.layers.{block}."
        for projection in "qkvo":
            yield f"{prefix}self_attn.{projection}_proj.weight", (HIDDEN, HIDDEN)
        yield f"{prefix}mlp.gate_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{prefix}mlp.up_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{prefix}mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)
        yield f"{prefix}input_layernorm.weight", (HIDDEN,)
        yield f"{prefix}post_attention_layernorm.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCAB, HIDDEN)


def random_bfloat16(shape: tuple[int, ...], generator: np.random.Generator) -> torch.Tensor:
    """Random signs and mantissas with exponents of about 1/64: incompressible, finite, quick to make."""
    count = int(np.prod(shape))
    bits = np.frombuffer(generator.bytes(2 * count), np.uint16).copy()
    bits &= 0x80FF
    bits |= 0x3C00
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).reshape(shape)


def random_weight(shape: tuple[int, ...], generator: np.random.Generator) -> torch.Tensor:
    """Ones for a norm, else random numbers."""
    return torch.ones(shape, dtype=torch.bfloat16) if len(shape) == 1 else random_bfloat16(shape, generator)


def make(directory: Path, gib: float, *, seed: int = 0) -> None:
    """Write a Llama checkpoint of about ``gib`` GiB in shards of 1 GB, one of them in memory at a time."""
    num_blocks = max(2, round((gib * 2**30 - 4 * VOCAB * HIDDEN) / BLOCK_BYTES))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": num_blocks,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "vocab_size": VOCAB,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "bfloat16",
    }
    generator = np.random.Generator(np.random.SFC64(seed))
    with atomic_directory(directory) as partial:
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        runs = split_by_size(llama_tensors(num_blocks), nbytes=lambda one: 2 * math.prod(one[1]), max_bytes=10**9)
        files = dict(zip(shard_names(len(runs)), runs, strict=True))
        for file, run in files.items():
            tensors = {name: random_weight(shape, generator) for name, shape in run}
            save_file(tensors, partial / file, {"format": "pt"})
        numel = sum(math.prod(shape) for _, shape in llama_tensors(num_blocks))
        weight_map = {name: file for file, run in files.items() for name, _ in run}
        write_index(partial, weight_map, total_size=2 * numel, total_parameters=numel)
    print(f"{directory}: {num_blocks} blocks, {2 * numel / 2**30:.2f} GiB, {len(files)} shards")


def without_a_fifth(names: list[str]) -> dict[str, str]:
    """Source name -> new name, leaving out every fifth block and closing the gaps."""
    renames = {}
    for name in names:
        match = re.search(r"layers\.(\d+)\.", name)
        if match is None:
            renames[name] = name
        elif int(match[1]) % 5 != 4:
            block = int(match[1])
            renames[name] = name.replace(match[0], f"layers.{block - block // 5}.")
    return renames


def run_variant(variant: str, source: Path, target: Path) -> None:
    """One measured run, in a process of its own; prints seconds and peak memory as JSON."""
    base = peak_mib()
    began = time.perf_counter()
    checkpoint = open_checkpoint(source)
    names = list(checkpoint.tensors)
    renames = {name: name for name in names} if variant == "copy all" else without_a_fifth(names)
    check = "checked" in variant
    if "atomic" in variant:
        with atomic_directory(target) as partial:
            report = copy_tensors(checkpoint, renames, partial, check_finite=checkpoint.tensors if check else ())
    else:
        target.mkdir()
        report = copy_tensors(checkpoint, renames, target, check_finite=checkpoint.tensors if check else ())
    seconds = time.perf_counter() - began
    result = {"seconds": seconds, "peak_mib": peak_mib(), "base_mib": base, "nbytes": report.nbytes}
    print(json.dumps(result))


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def drop_from_cache(directory: Path) -> None:
    for path in directory.glob("*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(variant: str, source: Path, target: Path, *, cold: bool) -> dict[str, float]:
    subprocess.run(["sync"], check=True)
    if cold:
        drop_from_cache(source)
    if variant == "cp -r":
        began = time.perf_counter()
        subprocess.run(["cp", "-r", source, target], check=True)
        result = {"seconds": time.perf_counter() - began}
    else:
        command = [sys.executable, __file__, "--run", variant, "--source", source, "--target", target]
        result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    shutil.rmtree(target)
    return result


def compare(source: Path, *, repeats: int, cold: bool) -> None:
    checkpoint = open_checkpoint(source)
    began = time.perf_counter()
    checkpoint.fingerprint()
    print(f"fingerprint of {checkpoint.nbytes / 2**30:.2f} GiB: {time.perf_counter() - began:.3f} s")
    began = time.perf_counter()
    assert find_non_finite(checkpoint, checkpoint.tensors) == []
    print(f"find_non_finite: {time.perf_counter() - began:.2f} s")
    runs: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        for number in range(repeats):
            start = number % len(VARIANTS)  # each variant takes each place in turn
            for variant in VARIANTS[start:] + VARIANTS[:start]:
                runs[variant].append(measure(variant, source, Path(folder) / "copy", cold=cold))
    print(f"{'variant':24s}{'median s':>9s}{'min':>7s}{'max':>7s}{'ratio to cp -r':>16s}{'peak RSS MiB':>14s}")
    for variant, results in runs.items():
        seconds = [result["seconds"] for result in results]
        ratios = [mine["seconds"] / cp["seconds"] for mine, cp in zip(results, runs["cp -r"], strict=True)]
        peak = max(result.get("peak_mib", 0) for result in results)
        base = max(result.get("base_mib", 0) for result in results)
        print(
            f"{variant:24s}{statistics.median(seconds):9.2f}{min(seconds):7.2f}{max(seconds):7.2f}"
            f"{statistics.median(ratios):16.2f}{peak:14.0f} ({base:.0f} after imports)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", type=Path, metavar="DIR", help="only make the checkpoint, there")
    parser.add_argument("--gib", type=float, default=4, help="its size")
    parser.add_argument("--source", type=Path, help="a checkpoint that is there, instead of a temporary one")
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--cold", action="store_true", help="read the source from the disk in every run")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--target", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run_variant(arguments.run, arguments.source, arguments.target)
    elif arguments.make:
        make(arguments.make, arguments.gib)
    elif arguments.source:
        compare(arguments.source.resolve(), repeats=arguments.repeats, cold=arguments.cold)
    else:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder) / "model", arguments.gib)
            compare(Path(folder) / "model", repeats=arguments.repeats, cold=arguments.cold)


if __name__ == "__main__":
    main()
