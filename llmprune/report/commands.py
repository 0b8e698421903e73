"""The commands that make each artifact again. Local files and models are named without folders, as in artifacts."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmprune.artifacts.activations import CalibrationManifest
    from llmprune.artifacts.records.bench import BenchResult
    from llmprune.artifacts.records.importance import Importance


def calibrate_command(manifest: CalibrationManifest) -> str:
    """The command of a calibration."""
    words: list[object] = ["calibrate", manifest.model.name, "--source", manifest.corpus.name]
    words += ["--samples", manifest.num_windows, "--seq-len", manifest.seq_len]
    words += ["--seed", manifest.seed] if manifest.seed else []
    words += ["--sampling", manifest.sampling] if manifest.sampling != "windows" else []
    words += ["--cache", manifest.cache] if manifest.cache != "first" else []
    return _typed([*words, "--bos", _bos(manifest.bos), "--dtype", manifest.dtype])


def search_command(importance: Importance) -> str:
    """The command of a search, behind its calibration."""
    settings = importance.settings
    words: list[object] = ["verify-redundancy", importance.model.name, "--target", len(importance.order)]
    words += ["--metric", settings.metric] if settings.metric != "sleb" else []
    words += ["--search", settings.search] if settings.search else []
    words += ["--error-rate", f"{settings.error_rate:g}"] if settings.error_rate is not None else []
    words += ["--protect-first", settings.protect_first] if settings.protect_first != 1 else []
    words += ["--protect-last", settings.protect_last] if settings.protect_last != 1 else []
    return _typed([*words, "--dtype", settings.dtype])


def bench_command(result: BenchResult) -> str:
    """The command of a benchmark."""
    words: list[object] = ["bench", result.model.name]
    words += ["--baseline", result.baseline.name] if result.baseline else []
    for protocol in result.perplexity:
        words += ["--ppl", protocol.corpus.name]
    if result.perplexity:
        words += ["--seq-len", result.perplexity[0].seq_len]
        words += ["--max-windows", max(protocol.windows for protocol in result.perplexity)]
        words += ["--bos", _bos(result.perplexity[0].bos)]
    else:
        words += ["--no-ppl"]
    if result.tasks:
        words += ["--tasks", ",".join(result.tasks.tasks)]
        words += ["--limit", result.tasks.limit] if result.tasks.limit else []
        words += ["--bos", _bos(result.tasks.bos)] if not result.perplexity else []
    if result.speed:
        words += ["--batch", ",".join(map(str, result.speed.batch)), "--gen", result.speed.new_tokens]
        words += ["--prompt", result.speed.prompt_tokens, "--prefill", result.speed.prefill_tokens]
        words += ["--repeats", result.speed.repeats, "--max-seconds", f"{result.speed.max_seconds:g}"]
    else:
        words += ["--no-speed"]
    return _typed([*words, "--dtype", result.dtype])


def _bos(bos: bool) -> str:
    return "always" if bos else "never"


def _typed(words: list[object]) -> str:
    return shlex.join(["llmprune", *map(str, words)])
