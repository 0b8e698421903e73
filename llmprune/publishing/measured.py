"""What benchmarks measured of a checkpoint, as rows of its card: the newest figures with their protocols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmprune.artifacts.records.agreement import AgreementProtocol
from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.figures import Figure, figures
from llmprune.artifacts.records.protocols import PerplexityProtocol, SpeedProtocol, TaskProtocol
from llmprune.text.protocols import PROTOCOLS

_SPEEDS = ("generation", "first_token", "prompt", "peak_bytes")


@dataclass(frozen=True)
class Measure:
    """One figure of the pruned model beside the model that it was compared with.

    Attributes:
        figure: both values, and their comparison.
        what: the text, the task, or what was run.
        protocol: how it was measured, in one line.
        dataset: what the metadata call the text or the task; None: the figure is not for the metadata.
    """

    figure: Figure
    what: str
    protocol: str
    dataset: str | None = None

    @property
    def name(self) -> str:
        """What was measured: perplexity, an accuracy's name as lm-eval gives it, or a speed with its unit."""
        return self.figure.quantity.label


def qualities(results: Sequence[BenchResult]) -> tuple[Measure, ...]:
    """Perplexities, accuracies and agreement, the newest of each text and of each task's metric."""
    found: dict[tuple[str, str | None], Measure] = {}
    for result in _newest_first(results):
        for figure in figures(result):
            if figure.quantity.kind in {"perplexity", "accuracy", "agreement"}:
                found.setdefault((figure.quantity.key, figure.which), _measure(result, figure))
    return tuple(found.values())


def speeds(results: Sequence[BenchResult]) -> tuple[Measure, ...]:
    """Speeds and peak memory of the newest benchmark that measured any."""
    for result in _newest_first(results):
        if result.speed is not None:
            measured = figures(result)
            return tuple(_measure(result, one) for key in _SPEEDS for one in measured if one.quantity.key == key)
    return ()


def _newest_first(results: Sequence[BenchResult]) -> list[BenchResult]:
    return sorted(results, key=lambda result: result.created, reverse=True)


def _measure(result: BenchResult, figure: Figure) -> Measure:
    protocol, which = figure.protocol, figure.which or ""
    if isinstance(protocol, PerplexityProtocol):
        bos = f"{'with' if protocol.bos else 'no'} BOS"
        windows = f"{protocol.windows} windows of {protocol.seq_len} tokens, {bos}"
        return Measure(figure, which, f"{protocol.corpus.origin}, {windows}, {result.dtype}", _dataset(which))
    if isinstance(protocol, TaskProtocol):
        items = f"{len(figure.model.values)} items"
        asked = protocol.examples(which)
        return Measure(figure, which, f"lm-eval {protocol.lm_eval}, {asked}, {items}, {result.dtype}", which)
    if isinstance(protocol, AgreementProtocol):
        return Measure(figure, "what the base model writes", f"{protocol}, {result.dtype}")
    assert isinstance(protocol, SpeedProtocol), "what is only counted is not measured"
    return _speed(result, figure, protocol)


def _speed(result: BenchResult, figure: Figure, protocol: SpeedProtocol) -> Measure:
    where = f"{result.machine}, {result.dtype}"
    if figure.quantity.key == "peak_bytes":
        return Measure(figure, "all loads", where)
    if figure.quantity.key == "prompt":
        prompt = f"one prompt of {protocol.prefill_tokens} tokens"
        return Measure(figure, prompt, f"{prompt}, {where}")
    load = f"{protocol.prompt_tokens} prompt tokens, {protocol.new_tokens} new ones, KV cache, {where}"
    return Measure(figure, f"batch {figure.which}", load)


def _dataset(corpus: str) -> str:
    """The Hub's name for a text where it has one, else the text's own."""
    name = corpus.partition(":")[0]
    return PROTOCOLS[name].repo if name in PROTOCOLS else name
