"""How numbers, models and protocols are written on the page."""

from __future__ import annotations

from collections.abc import Callable

from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.estimates import Estimate
from llmprune.artifacts.records.figures import Figure, Reading
from llmprune.artifacts.records.protocols import PerplexityProtocol, SpeedProtocol, TaskProtocol
from llmprune.artifacts.records.pruning import PruningRecord
from llmprune.artifacts.records.quantities import Kind
from llmprune.report.contents import RunContents
from llmprune.report.parts import Cell

ONLY_CHOICES = "Only tasks with choices were measured. Writing suffers first: measure a task whose answers are written."
TIMES = "\N{MULTIPLICATION SIGN}"
_LONGEST = 28  # characters of a label that charts have room for


def spelled(kind: Kind, value: float) -> str:
    """A figure with the usual digits of its kind: perplexities 26.24, accuracies 0.512, speeds 1,234."""
    if kind == "accuracy":
        return f"{value:.3f}"
    if kind == "perplexity":
        return f"{value:,.2f}" if value < 10_000 else f"{value:,.0f}" if value < 1e9 else f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def interval(found: Estimate | Reading, spell: Callable[[float], str]) -> str:
    """A value and the ends of its interval: ``1.174 (1.151 to 1.198)``."""
    if found.interval is None:
        return spell(found.value)
    low, high = map(spell, found.interval)
    return f"{spell(found.value)} ({low} to {high})"


def value_of(one: Reading) -> str:
    """One model's value, and how well it is known."""
    said = interval(one, lambda value: spelled(one.quantity.kind, value))
    return f"{said} (one run)" if one.is_one_run else said


def comparison(figure: Figure) -> str:
    """A ratio or a difference with its interval; nothing where nothing is compared."""
    if figure.against is None:
        return ""
    if figure.quantity.kind == "accuracy":
        return interval(figure.against, "{:+.3f}".format)
    return f"{TIMES} {interval(figure.against, '{:.3f}'.format)}" if figure.is_clear else "unclear"


def label_of(contents: RunContents, name: str) -> str:
    """A model in few words: what was done to it, else its name."""
    known = {one.name: _label(one.record) for one in contents.checkpoints}
    if name not in known:
        return "dense" if name == contents.model else shortened(name)
    alike = [other for other, label in known.items() if label == known[name]]
    return known[name] if len(alike) == 1 else f"{known[name]} #{alike.index(name) + 1}"


def model_cell(contents: RunContents, name: str) -> Cell:
    """A cell that names a model, with a mark in its colour."""
    return Cell(label_of(contents, name), role=contents.role_of(name))


def shortened(name: str, longest: int = _LONGEST) -> str:
    """A name, cut to the room that charts have."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def perplexity_protocol(protocol: PerplexityProtocol, dtype: str) -> str:
    """How a perplexity was measured."""
    bos = "each with BOS" if protocol.bos else "no BOS"
    text = f"{protocol.corpus.origin} (fingerprint {protocol.corpus.fingerprint[:12]})"
    return f"{text}; {protocol.windows} windows of {protocol.seq_len} tokens, {bos}, {dtype}"


def accuracy_protocol(protocol: TaskProtocol, one: Reading, dtype: str) -> str:
    """How an accuracy was measured."""
    items = f"the first {len(one.values)} items" if protocol.limit else f"all {len(one.values)} items"
    bos = "each with BOS" if protocol.bos else "no BOS"
    return f"lm-eval {protocol.lm_eval}, {items} of {one.which}, {protocol.examples(one.which or '')}, {bos}, {dtype}"


def speed_protocol(protocol: SpeedProtocol, result: BenchResult) -> str:
    """How speed was measured, and on what."""
    sizes = ", ".join(map(str, protocol.batch))
    return (
        f"generation: batch {sizes}, {protocol.new_tokens} new tokens after {protocol.prompt_tokens}, KV cache; "
        f"prompt: 1 x {protocol.prefill_tokens}; {result.dtype}, attention {', '.join(result.machine.attention)}; "
        f"{result.machine}"
    )


def _label(record: PruningRecord) -> str:
    """What was done, in the order in which it was done."""
    earlier = [] if record.source_record is None else [_label(record.source_record)]
    if record.removal is not None:
        earlier.append(f"{record.num_blocks} of {record.source.num_blocks} blocks")
    if record.experts is not None:
        earlier.append(f"{record.experts.left} of {record.experts.before} experts")
    if record.sparsity is not None:
        settings = record.sparsity.settings
        earlier.append(f"{settings.pattern} zeros" if earlier else f"{settings.pattern} zeros, {settings.method}")
    if record.masked is not None:
        earlier.append(f"{record.pattern or 'some'} zeros, by mask")
    if record.healing is not None:
        earlier.append(f"healed {record.healing.settings.scope}")
    return shortened(" + ".join(earlier))
