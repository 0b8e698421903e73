"""The figures of a benchmark, each read from its result once: whoever shows them, or compares them, starts here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from llmprune.artifacts.records.agreement import AgreementProtocol
from llmprune.artifacts.records.bench import BenchResult, GenerationResult, ModelResult, TaskResult
from llmprune.artifacts.records.estimates import Estimate, Repeats
from llmprune.artifacts.records.protocols import PerplexityProtocol, SpeedProtocol, TaskProtocol
from llmprune.artifacts.records.quantities import QUANTITIES, Quantity, accuracy_by

Protocol = PerplexityProtocol | TaskProtocol | SpeedProtocol | AgreementProtocol
_NORMAL = 1.96  # standard errors on either side of a mean: 95%


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
        baseline: the baseline's; None: there is no baseline, or it has no such figure.
        against: the model's over the baseline's, of accuracies less it, from paired measurements; None: not compared.
        stderr: of a difference of accuracies.
        protocol: how it was measured; None: it was counted.
    """

    model: Reading
    baseline: Reading | None
    against: Estimate | None
    stderr: float | None
    protocol: Protocol | None

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
    yield from _agreements(one)
    if one.prompt is not None:
        yield _repeated("prompt", None, one.prompt)
    for key, read in BATCHED.items():
        for load in one.generation:
            if (repeats := read(load)) is not None:
                yield _repeated(key, str(load.batch), repeats)


def figures(result: BenchResult) -> list[Figure]:
    """Every figure that all models of a result have, and agreement between them, in the order of ``QUANTITIES``."""
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
        if result.baseline is None or own.quantity.kind == "agreement" or _place(own) in known
    ]


def only_choices(results: Sequence[BenchResult]) -> bool:
    """Whether tasks were measured, and nothing of what the model writes."""
    return any(result.tasks for result in results) and not any(map(_measures_writing, results))


def _measures_writing(result: BenchResult) -> bool:
    """Whether a benchmark says anything of what the model writes: a task with written answers, or greedy agreement."""
    return result.agreement is not None or bool(result.tasks and result.tasks.generative)


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


def _agreements(one: ModelResult) -> Iterator[Reading]:
    """What stands between a model and its dense model, greedily decoded."""
    if one.agreement is not None:
        for key, found in (("agreement", one.agreement.share), ("agreed_tokens", one.agreement.length)):
            yield Reading(QUANTITIES[key], None, found.value, found.interval)
    if one.draft is not None:
        faster = one.draft.speedup
        yield Reading(QUANTITIES["draft_acceptance"], None, one.draft.acceptance)
        yield Reading(QUANTITIES["draft_speedup"], None, faster.value, faster.interval)


def _repeated(key: str, which: str | None, repeats: Repeats) -> Reading:
    spread = (min(repeats.values), max(repeats.values)) if len(repeats.values) > 1 else None
    return Reading(QUANTITIES[key], which, repeats.median, spread, values=repeats.values)


def _place(one: Reading) -> tuple[str, str | None]:
    return one.quantity.key, one.which


def _protocol(result: BenchResult, one: Reading) -> Protocol | None:
    match one.quantity.kind:
        case "perplexity":
            return next(protocol for protocol in result.perplexity if protocol.corpus.name == one.which)
        case "accuracy":
            return result.tasks
        case "repeated":
            return result.speed if one.quantity.key != "load_seconds" else None
        case "agreement":
            return result.agreement
        case "count":
            return result.speed if one.quantity.key == "peak_bytes" else None
