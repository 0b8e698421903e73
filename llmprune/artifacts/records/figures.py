"""The figures of a benchmark, each read from its result once: whoever shows them, or compares them, starts here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from llmprune.artifacts.records.bench import (
    BenchResult,
    Estimate,
    GenerationResult,
    ModelResult,
    PerplexityProtocol,
    Repeats,
    SpeedProtocol,
    TaskProtocol,
    TaskResult,
)

Kind = Literal["count", "perplexity", "accuracy", "repeated"]
_NORMAL = 1.96  # standard errors on either side of a mean: 95%


@dataclass(frozen=True)
class Quantity:
    """Something that a benchmark measures.

    Attributes:
        key: its name among the metrics.
        label: what people read, with the unit.
        meaning: one line for the documentation.
        kind: what a value is made from: a count, losses of windows, scores of items, or repeats.
        unit: what one of the label's unit is, in the unit that is stored.
        lower_is_better: whether of several texts, tasks or batch sizes the highest is the worst.
        compared: whether the two models' values are set against each other.
    """

    key: str
    label: str
    meaning: str
    kind: Kind = "count"
    unit: float = 1.0
    lower_is_better: bool = False
    compared: bool = True

    @property
    def comparison(self) -> str:
        """What the metric of the comparison is called: ``ppl_ratio``, ``acc_diff``."""
        return f"{self.key}_{'diff' if self.kind == 'accuracy' else 'ratio'}"


QUANTITIES: Mapping[str, Quantity] = {
    one.key: one
    for one in (
        Quantity("sparsity", "share of zeros", "share of the stored weights that are zero", compared=False),
        Quantity("blocks", "blocks", "transformer blocks"),
        Quantity("params", "parameters", "weights stored, tied ones once"),
        Quantity("effective_params", "not zero", "those that are not zero"),
        Quantity("bytes", "MB on disk", "of the weights on disk", unit=1e6),
        Quantity(
            "load_seconds",
            "s to load",
            "from files to a model in memory; one run, so no ratio",
            "repeated",
        ),
        Quantity("peak_bytes", "peak MB", "weights, and the most memory in use above them", unit=1e6),
        Quantity("ppl", "perplexity", "perplexity on a text", "perplexity", lower_is_better=True),
        Quantity(
            "acc",
            "accuracy",
            "accuracy on a task, and by any other name (`acc_norm`) that lm-eval gives a metric",
            "accuracy",
        ),
        Quantity(
            "prompt", "prompt tokens/s", "prompt tokens/s of the single long prompt, median of the repeats", "repeated"
        ),
        Quantity(
            "generation",
            "generated tokens/s",
            "generated tokens/s at a batch size, median of the repeats",
            "repeated",
        ),
        Quantity(
            "first_token",
            "first token, ms",
            "ms until every sequence of the batch has its first new token, median of the repeats",
            "repeated",
            lower_is_better=True,
        ),
        Quantity(
            "joules",
            "J/token",
            "joules a generated token at a batch size, where the device counts energy",
            "repeated",
            lower_is_better=True,
        ),
    )
}
"""Every quantity by its key, in the order in which it is shown."""

BATCHED: Mapping[str, Callable[[GenerationResult], Repeats | None]] = {
    "generation": lambda one: one.tokens_per_second,
    "first_token": lambda one: one.first_token_ms,
    "joules": lambda one: one.joules_per_token,
}
"""The quantities that every batch size has of its own."""


@dataclass(frozen=True)
class Reading:
    """One model's value of a quantity.

    Attributes:
        quantity: which it is.
        which: the text, the task or the batch size; None where there is but one.
        value: in the unit that is stored; of repeats the median.
        interval: of 95%; of repeats from the smallest to the largest; None: of a count, and where one value gave it.
        stderr: of an accuracy; None: of all else, and of a single item.
        values: losses of windows in nats/token, scores of items, or repeats, in the order taken; of a count none.
    """

    quantity: Quantity
    which: str | None
    value: float
    interval: tuple[float, float] | None = None
    stderr: float | None = None
    values: tuple[float, ...] = ()

    @property
    def shown(self) -> float:
        """The value in the unit of the label."""
        return self.value / self.quantity.unit

    @property
    def is_one_run(self) -> bool:
        """Whether a single run gave the value, so that it says little about the next one."""
        return self.quantity.kind == "repeated" and len(self.values) == 1

    def named(self, key: str) -> str:
        """The name among the metrics of a figure ``key`` of this text, task or batch size."""
        return key if self.which is None else f"{key}.{self.which}"


@dataclass(frozen=True)
class Figure:
    """A quantity of the model that was asked for, beside the baseline's.

    Attributes:
        model: the model's.
        baseline: the baseline's; None: there is no baseline.
        against: the model's over the baseline's, of accuracies less it, from paired measurements; None: not compared.
        stderr: of a difference of accuracies.
        protocol: how it was measured; None: it was counted.
    """

    model: Reading
    baseline: Reading | None
    against: Estimate | None
    stderr: float | None
    protocol: PerplexityProtocol | TaskProtocol | SpeedProtocol | None

    @property
    def quantity(self) -> Quantity:
        """Which quantity it is."""
        return self.model.quantity

    @property
    def which(self) -> str | None:
        """The text, the task or the batch size; None where there is but one."""
        return self.model.which

    @property
    def metric(self) -> str:
        """What the comparison is called among the metrics: ``ppl_ratio.wikitext2``."""
        return self.model.named(self.quantity.comparison)

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The baseline's, if there is one, and the model's."""
        return (self.model,) if self.baseline is None else (self.baseline, self.model)

    @property
    def is_clear(self) -> bool:
        """Whether the comparison may be told: a ratio of repeats that their spread leaves open may not."""
        if self.against is None:
            return False
        return self.quantity.kind != "repeated" or self.against.is_clear

    def label(self, *, alone: bool = False) -> str:
        """What people read. ``alone``: it is the only text or batch size, and need not be named."""
        if self.quantity.kind == "accuracy":
            return f"{self.which}, {self.quantity.key}"
        if self.which is None or alone:
            return self.quantity.label
        return f"{self.quantity.label}, {'batch ' if self.quantity.kind == 'repeated' else ''}{self.which}"


def readings(one: ModelResult) -> Iterator[Reading]:
    """All that was measured of one model, in the order of ``QUANTITIES``."""
    yield from _counts(one)
    for text in one.perplexity:
        found = text.perplexity
        yield Reading(QUANTITIES["ppl"], text.corpus, found.value, found.interval, values=text.window_losses)
    for task in one.tasks:
        yield _accuracy(task)
    if one.prompt is not None:
        yield _repeated("prompt", None, one.prompt)
    for key, read in BATCHED.items():
        for load in one.generation:
            if (repeats := read(load)) is not None:
                yield _repeated(key, str(load.batch), repeats)


def figures(result: BenchResult) -> list[Figure]:
    """Every figure that all models of a result have, in the order of ``QUANTITIES``."""
    known = {} if result.baseline is None else {_place(one): one for one in readings(result.baseline)}
    errors: dict[tuple[str, str | None], float | None] = {
        (one.metric, one.task): one.stderr for one in result.differences
    }
    return [
        Figure(
            own,
            known.get(_place(own)),
            result.metrics.get(own.named(own.quantity.comparison)),
            errors.get(_place(own)),
            _protocol(result, own),
        )
        for own in readings(result.model)
        if result.baseline is None or _place(own) in known
    ]


def accuracy_by(metric: str) -> Quantity:
    """Accuracy by one of lm-eval's metrics."""
    return Quantity(metric, metric, QUANTITIES["acc"].meaning, "accuracy")


def _counts(one: ModelResult) -> Iterator[Reading]:
    zeros, ratio = (one.sparsity.zeros, one.sparsity.ratio) if one.sparsity else (0, 0.0)
    counts: dict[str, float | None] = {
        "sparsity": ratio,
        "blocks": one.num_blocks,
        "params": one.num_parameters,
        "effective_params": one.num_parameters - zeros,
        "bytes": one.weight_bytes,
        "load_seconds": one.load_seconds,
        "peak_bytes": one.peak_bytes,
    }
    for key, value in counts.items():
        if value is not None:
            quantity = QUANTITIES[key]
            yield Reading(quantity, None, value, values=(value,) if quantity.kind == "repeated" else ())


def _accuracy(task: TaskResult) -> Reading:
    margin = None if task.stderr is None else _NORMAL * task.stderr
    ends = None if margin is None else (task.accuracy - margin, task.accuracy + margin)
    return Reading(accuracy_by(task.metric), task.task, task.accuracy, ends, task.stderr, task.items)


def _repeated(key: str, which: str | None, repeats: Repeats) -> Reading:
    spread = (min(repeats.values), max(repeats.values)) if len(repeats.values) > 1 else None
    return Reading(QUANTITIES[key], which, repeats.median, spread, values=repeats.values)


def _place(one: Reading) -> tuple[str, str | None]:
    return one.quantity.key, one.which


def _protocol(result: BenchResult, one: Reading) -> PerplexityProtocol | TaskProtocol | SpeedProtocol | None:
    match one.quantity.kind:
        case "perplexity":
            return next(protocol for protocol in result.perplexity if protocol.corpus.name == one.which)
        case "accuracy":
            return result.tasks
        case "repeated":
            return result.speed if one.quantity.key != "load_seconds" else None
        case "count":
            return result.speed if one.quantity.key == "peak_bytes" else None
