"""How a benchmark is shown: one table, and beneath it the protocols and what must be said in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from llmprune.cli.console import Console

if TYPE_CHECKING:
    from llmprune.artifacts.records.bench import BenchResult, Estimate, GenerationResult, ModelResult, Repeats
    from llmprune.artifacts.records.zeros_counted import SparsityReport

_FEW_ZEROS = 0.01  # rounding to few bits makes some (SmolLM2 in Q4_1: 0.24%): not worth a word
_KNOWN = 0.05  # a ratio whose interval ends further away than this share of it is called uncertain


def show_bench(console: Console, result: BenchResult) -> None:
    """Dense and pruned beside each other with their ratio, and how it all was measured."""
    against = "ratio, difference" if result.tasks else "ratio"
    columns = ["", "dense", "pruned", against] if result.baseline else ["", "model"]
    rows = [*_counts(result), *_perplexities(result), *_accuracies(result), *_speeds(result)]
    console.table(result.model.name, columns, rows)
    for line in (*_quality_protocols(result), *_speed_protocol(result), *_about_zeros(result), *_about_gate(result)):
        console.line(line)


def _models(result: BenchResult) -> list[ModelResult]:
    """Baseline first."""
    return [result.baseline, result.model] if result.baseline else [result.model]


def _counts(result: BenchResult) -> Iterator[list[str]]:
    """What files and memory take, a row each; a row that a model has no number for is left out."""
    counts: list[tuple[str, str, Callable[[ModelResult], float | None], str]] = [
        ("blocks", "blocks", lambda one: one.num_blocks, ","),
        ("parameters", "params", lambda one: one.num_parameters, ","),
        ("MB on disk", "bytes", lambda one: one.weight_bytes / 1e6, ",.1f"),
        ("s to load", "load_seconds", lambda one: one.load_seconds, ".2f"),
        ("peak MB", "peak_bytes", lambda one: one.peak_bytes and one.peak_bytes / 1e6, ",.0f"),
    ]
    if any(map(_is_sparse, _models(result))):
        counts.insert(2, ("not zero", "effective_params", _effective, ","))
    for label, metric, read, spelling in counts:
        values = [value for one in _models(result) if (value := read(one)) is not None]
        if len(values) == len(_models(result)):
            yield [label, *(format(value, spelling) for value in values), *_ratio(result, f"{metric}_ratio")]


def _is_sparse(one: ModelResult) -> bool:
    return one.sparsity is not None and one.sparsity.ratio >= _FEW_ZEROS


def _effective(one: ModelResult) -> int:
    return one.num_parameters - (one.sparsity.zeros if one.sparsity else 0)


def _perplexities(result: BenchResult) -> Iterator[list[str]]:
    several = len(result.model.perplexity) > 1
    for measured in zip(*(one.perplexity for one in _models(result)), strict=True):
        name = measured[0].corpus
        cells = [spell_estimate(one.perplexity, ",.2f") for one in measured]
        yield [f"perplexity, {name}" if several else "perplexity", *cells, *_ratio(result, f"ppl_ratio.{name}")]


def _accuracies(result: BenchResult) -> Iterator[list[str]]:
    for index, measured in enumerate(zip(*(one.tasks for one in _models(result)), strict=True)):
        cells = [f"{one.accuracy:.3f}{_stderr(one.stderr)}" for one in measured]
        differences = [f"{one.difference:+.3f}{_stderr(one.stderr)}" for one in result.differences[index:][:1]]
        yield [f"{measured[0].task}, {measured[0].metric}", *cells, *differences]


def _speeds(result: BenchResult) -> Iterator[list[str]]:
    prompts = [one.prompt for one in _models(result) if one.prompt]
    if prompts:
        yield ["prompt tokens/s", *map(_spread, prompts), *_ratio(result, "prompt_ratio")]
    series: list[tuple[str, str, Callable[[GenerationResult], Repeats | None]]] = [
        ("generated tokens/s", "generation", lambda one: one.tokens_per_second),
        ("first token, ms", "first_token", lambda one: one.first_token_ms),
        ("J/token", "joules", lambda one: one.joules_per_token),
    ]
    several = len(result.model.generation) > 1
    for label, metric, read in series:
        for measured in zip(*(one.generation for one in _models(result)), strict=True):
            batch, cells = measured[0].batch, [_spread(repeats) for one in measured if (repeats := read(one))]
            if cells:
                named = f"{label}, batch {batch}" if several else label
                yield [named, *cells, *_ratio(result, f"{metric}_ratio.{batch}")]


def _quality_protocols(result: BenchResult) -> Iterator[str]:
    for protocol in result.perplexity:
        yield (
            f"Perplexity: {protocol.corpus.origin}, {protocol.windows} windows of {protocol.seq_len} tokens, "
            f"{_bos(protocol.bos)}, {result.dtype}; ± 95% intervals over windows, paired for the ratio."
        )
    if result.tasks is not None:
        items = f"the first {result.tasks.limit} items of each task" if result.tasks.limit else "all items"
        yield (
            f"Zero-shot: lm-eval {result.tasks.lm_eval}, {items}, {_bos(result.tasks.bos)}, {result.dtype}; "
            "SE: standard errors, of differences on the same items."
        )


def _speed_protocol(result: BenchResult) -> Iterator[str]:
    speed, machine = result.speed, result.machine
    if speed is None or result.model.prompt is None:
        return
    repeats = {len(one.tokens_per_second.values) for one in result.model.generation} | {len(result.model.prompt.values)}
    counts = f"{min(repeats)} to {max(repeats)}" if len(repeats) > 1 else str(min(repeats))
    yield (
        f"Speed: generation {', '.join(map(str, speed.batch))} x {speed.new_tokens} tokens after "
        f"{speed.prompt_tokens}, KV cache; prompt 1 x {speed.prefill_tokens}; medians of {counts} repeats in turn "
        f"(smallest to largest), ratios ± 95% intervals; {result.dtype}, attention {', '.join(machine.attention)}; "
        f"{machine}. Energy: {speed.energy}."
    )
    ratios = ["prompt_ratio", *(f"generation_ratio.{batch}" for batch in speed.batch)]
    vague = [name for name in ratios if name in result.metrics and not _is_known(result.metrics[name])]
    if vague:
        yield f"Not known within {_KNOWN:.0%} yet: {', '.join(vague)}; more repeats with --max-seconds."


def _about_zeros(result: BenchResult) -> Iterator[str]:
    """Zeros are easily taken for a speed-up: say what is there, and what it does not buy."""
    for one in _models(result):
        if one.sparsity is not None and _is_sparse(one):
            yield f"{one.name}: {_zeros(one.sparsity)}"
    if _is_sparse(result.model):
        yield (
            "Its zeros buy no speed and no memory here: they are stored and multiplied like any other number; "
            "only kernels made for them (2:4 on some GPUs, sparse CPU runtimes) can leave them out."
        )


def _zeros(report: SparsityReport) -> str:
    lines = f"{report.zero_rows:,} rows and {report.zero_columns:,} columns of matrices are zero throughout"
    said = f"{report.ratio:.2%} of the stored weights are zero; {lines}."
    if report.pattern is None:
        return said
    if not report.violations:
        return f"{said} The pattern {report.pattern} holds in all {report.groups:,} groups of pruned weights."
    return f"{said} The pattern {report.pattern} is broken in {report.violations:,} of {report.groups:,} groups."


def _about_gate(result: BenchResult) -> Iterator[str]:
    for check in result.gate:
        yield f"--fail-if {check.condition}: {'HOLDS' if check.failed else 'does not hold'} ({check.value:.6g})."


def _ratio(result: BenchResult, metric: str) -> list[str]:
    """The last cell of a row; none without a baseline."""
    found = result.metrics.get(metric)
    return [] if found is None else [spell_estimate(found, ".3f")]


def spell_estimate(estimate: Estimate, spelling: str) -> str:
    """A value and, to fit a narrow terminal, half the width of its interval in percent."""
    value = format(estimate.value, spelling)
    if estimate.interval is None:
        return value
    share = (estimate.interval[1] - estimate.interval[0]) / 2 / estimate.value
    return f"{value} ±{share:.1%}" if share < 1 else f"{value} ±>100%"


def _is_known(estimate: Estimate) -> bool:
    low, high = estimate.interval or (0.0, 0.0)
    return max(high - estimate.value, estimate.value - low) <= _KNOWN * estimate.value


def _spread(repeats: Repeats) -> str:
    low, high = repeats.spread
    spelling = ",.0f" if repeats.median >= 10 else ".3g"
    return f"{repeats.median:{spelling}} ({low:{spelling}}-{high:{spelling}})"


def _stderr(stderr: float | None) -> str:
    return "" if stderr is None else f" (SE {stderr:.3f})"


def _bos(bos: bool) -> str:
    return "each with BOS" if bos else "no BOS"
