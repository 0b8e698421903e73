"""A benchmark as text: one table, and below it the protocols and remarks."""

from __future__ import annotations

from collections.abc import Iterator

from llmprune.artifacts.records.bench import BenchResult, ModelResult
from llmprune.artifacts.records.estimates import Estimate
from llmprune.artifacts.records.figures import Figure, Reading, figures, only_choices
from llmprune.artifacts.records.protocols import TaskProtocol
from llmprune.artifacts.records.zeros_counted import SparsityReport
from llmprune.report.wording import ONLY_CHOICES

_FEW_ZEROS = 0.01  # rounding to few bits makes some (SmolLM2 in Q4_1: 0.24%): not worth a word
_KNOWN = 0.05  # a ratio whose interval ends further away than this share of it is called uncertain
_SPELLINGS = {"bytes": ",.1f", "load_seconds": ".2f", "ppl": ",.2f"}  # of other figures see _spell


def bench_table(result: BenchResult) -> tuple[list[str], list[list[str]]]:
    """Header and rows: dense and pruned beside each other with their ratio."""
    against = "ratio, difference" if result.tasks else "ratio"
    found = _shown(result)
    header = ["", "dense", "pruned", against] if result.baseline else ["", "model"]
    return header, [_row(figure, found) for figure in found]


def bench_remarks(result: BenchResult) -> list[str]:
    """How the figures were measured, and what is easily misread."""
    return [
        *_quality_protocols(result),
        *_speed_protocol(result, _shown(result)),
        *_about_zeros(result),
        *_about_gate(result),
    ]


def _shown(result: BenchResult) -> list[Figure]:
    return [figure for figure in figures(result) if _is_shown(result, figure)]


def _models(result: BenchResult) -> list[ModelResult]:
    """Baseline first."""
    return [result.baseline, result.model] if result.baseline else [result.model]


def _is_shown(result: BenchResult, figure: Figure) -> bool:
    """The number of weights that are not zero is shown where a model has more than a few zeros."""
    if figure.quantity.key == "effective_params":
        return any(map(_is_sparse, _models(result)))
    return figure.quantity.key != "sparsity"


def _is_sparse(one: ModelResult) -> bool:
    return one.sparsity is not None and one.sparsity.ratio >= _FEW_ZEROS


def _row(figure: Figure, others: list[Figure]) -> list[str]:
    alone = sum(figure.quantity == other.quantity for other in others) == 1
    if figure.quantity.kind == "agreement":  # between the two, so it stands with the pruned one
        return [figure.label(), "", _cell(figure.model), ""]
    return [figure.label(alone=alone), *map(_cell, figure.readings), *_comparison(figure)]


def _cell(one: Reading) -> str:
    """One model's value, and how well it is known."""
    match one.quantity.kind:
        case "count":
            return _spell(one, one.shown)
        case "perplexity":
            return spell_estimate(one.value, one.interval, _SPELLINGS["ppl"])
        case "accuracy":
            return f"{one.value:.3f}{_stderr(one.stderr)}"
        case "repeated" | "agreement":
            if one.interval is None:
                return f"{_spell(one, one.value)}{' (one run)' if one.is_one_run else ''}"
            low, high = one.interval
            return f"{_spell(one, one.value)} ({_spell(one, low)}-{_spell(one, high)})"


def _spell(one: Reading, value: float) -> str:
    """Counts in full; what repeats give in three digits or more, all of them with those of the median."""
    usual = ",.0f" if one.quantity.kind == "count" or one.value >= 10 else ".3g"
    return format(value, _SPELLINGS.get(one.quantity.key, usual))


def _comparison(figure: Figure) -> list[str]:
    """The last cell of a row; none where nothing is compared."""
    if figure.against is None:
        return []
    if figure.quantity.kind == "accuracy":
        return [f"{figure.against.value:+.3f}{_stderr(figure.stderr)}"]
    return [spell_ratio(figure.against) if figure.is_clear else "unclear"]


def _quality_protocols(result: BenchResult) -> Iterator[str]:
    for protocol in result.perplexity:
        yield (
            f"Perplexity: {protocol.corpus.origin}, {protocol.windows} windows of {protocol.seq_len} tokens, "
            f"{_bos(protocol.bos)}, {result.dtype}; ± 95% intervals over windows, paired for the ratio."
        )
    if result.tasks is not None:
        items = f"the first {result.tasks.limit} items of each task" if result.tasks.limit else "all items"
        yield (
            f"Tasks: lm-eval {result.tasks.lm_eval}, {items}, {_bos(result.tasks.bos)}, {result.dtype}; "
            f"{_examples(result.tasks)}; SE: standard errors, of differences on the same items."
        )
    if result.agreement is not None:
        yield f"Greedy agreement: with {result.agreement}, {result.dtype}; 95% intervals over prompts."
    if only_choices([result]):
        yield ONLY_CHOICES


def _examples(protocol: TaskProtocol) -> str:
    """Of all tasks alike, or of each."""
    known = {task: protocol.examples(task) for task in protocol.tasks}
    if len(set(known.values())) == 1:
        return next(iter(known.values()))
    return "; ".join(f"{task}: {said}" for task, said in known.items())


def _speed_protocol(result: BenchResult, found: list[Figure]) -> Iterator[str]:
    speed, machine = result.speed, result.machine
    timed = [figure for figure in found if figure.quantity.key in {"prompt", "generation"}]
    if speed is None or not timed:
        return
    repeats = {len(figure.model.values) for figure in timed}
    counts = f"{min(repeats)} to {max(repeats)}" if len(repeats) > 1 else str(min(repeats))
    numbers = f"medians of {counts} repeats in turn (smallest to largest), ratios ± 95% intervals"
    if max(repeats) == 1:
        numbers = "one run each, so no ratios"
    yield (
        f"Speed: generation {', '.join(map(str, speed.batch))} x {speed.new_tokens} tokens after "
        f"{speed.prompt_tokens}, KV cache; prompt 1 x {speed.prefill_tokens}; {numbers}; {result.dtype}, "
        f"attention {', '.join(machine.attention)}; {machine}. Energy: {speed.energy}."
    )
    vague = [figure.metric for figure in timed if figure.against is not None and not _is_known(figure.against)]
    if vague:
        yield f"Not known within {_KNOWN:.0%} yet: {', '.join(vague)}; more repeats with `max_seconds`."


def _about_zeros(result: BenchResult) -> Iterator[str]:
    """Zeros are easily taken for a speed-up. Say how many there are, and that they make nothing faster."""
    for one in _models(result):
        if one.sparsity is not None and _is_sparse(one):
            yield f"{one.name}: {_zeros(one.sparsity)}"
    if _is_sparse(result.model):
        yield (
            "Its zeros save no time and no memory here. They are stored and multiplied like any other number. "
            "Only kernels made for zeros (2:4 on some GPUs, sparse CPU runtimes) can skip them."
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
        yield f"`fail_if={check.condition}`: {'HOLDS' if check.failed else 'does not hold'} ({check.value:.6g})."


def spell_ratio(ratio: Estimate) -> str:
    """``1.258 ±3.7%``."""
    return spell_estimate(ratio.value, ratio.interval, ".3f")


def spell_estimate(value: float, interval: tuple[float, float] | None, spelling: str) -> str:
    """A value and, to fit a narrow terminal, half the width of its interval in percent."""
    said = format(value, spelling)
    if interval is None:
        return said
    share = (interval[1] - interval[0]) / 2 / value
    return f"{said} ±{share:.1%}" if share < 1 else f"{said} ±>100%"


def _is_known(estimate: Estimate) -> bool:
    low, high = estimate.interval or (0.0, 0.0)
    return max(high - estimate.value, estimate.value - low) <= _KNOWN * estimate.value


def _stderr(stderr: float | None) -> str:
    return "" if stderr is None else f" (SE {stderr:.3f})"


def _bos(bos: bool) -> str:
    return "each with BOS" if bos else "no BOS"
