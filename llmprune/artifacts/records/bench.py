"""Benchmark results: every number beside the protocol that it was measured under.

The page docs/bench-schema.md is made from the docstrings here (``python docs/bench_schema.py``).
"""

from __future__ import annotations

from statistics import median
from typing import ClassVar, Literal

from llmprune.artifacts.records.provenance import Artifact, CorpusIdentity, Record
from llmprune.artifacts.records.zeros_counted import SparsityReport

_CLEAR = 2.0  # a ratio of speeds that is not known within this factor says nothing


class Estimate(Record):
    """A figure, and how well it is known.

    Attributes:
        value: the figure.
        interval: its 95% confidence interval; null where one measurement or a count gave it.
    """

    value: float
    interval: tuple[float, float] | None = None

    @property
    def is_clear(self) -> bool:
        """Whether the interval of a positive figure ends within a factor of two of it on both sides."""
        if self.interval is None:
            return False
        low, high = self.interval
        return self.value <= _CLEAR * low and high <= _CLEAR * self.value


class Machine(Record):
    """On what the numbers were measured.

    Attributes:
        processor: the CPU's or the GPU's name.
        threads: of torch, on the CPU.
        memory_bytes: of the machine, or of the GPU.
        system: the operating system.
        python: the version of Python.
        cuda: the version of CUDA that torch was built for; null on the CPU.
        attention: the attention kernels that transformers chose for the models, such as ``sdpa``.
    """

    processor: str
    threads: int
    memory_bytes: int
    system: str
    python: str
    cuda: str | None = None
    attention: tuple[str, ...] = ()

    def __str__(self) -> str:
        place = f"CUDA {self.cuda}" if self.cuda else f"{self.threads} threads"
        return f"{self.processor}, {place}, {self.memory_bytes / 2**30:.0f} GiB"


class PerplexityProtocol(Record):
    """How perplexity was measured on one text: non-overlapping windows, logits in float32.

    Attributes:
        corpus: the text.
        seq_len: tokens a window, BOS included.
        windows: how many.
        bos: whether every window starts with BOS.
    """

    corpus: CorpusIdentity
    seq_len: int
    windows: int
    bos: bool


class TaskProtocol(Record):
    """How zero-shot accuracy was measured: by lm-eval, the same items for both models.

    Attributes:
        tasks: names that lm-eval knows.
        limit: only so many first items of each; null: all.
        lm_eval: its version.
        bos: whether every item starts with BOS.
    """

    tasks: tuple[str, ...]
    limit: int | None
    lm_eval: str
    bos: bool


class SpeedProtocol(Record):
    """How speed was measured: baseline and model in turn, after a warm-up each.

    Attributes:
        batch: sequences generated together; several sizes, each measured by itself.
        prompt_tokens: in each.
        new_tokens: generated for each, greedily, with the KV cache.
        prefill_tokens: of the single long prompt.
        repeats: the least number of timed repeats.
        max_seconds: after which no repeat beyond these began.
        energy: which device's energy was counted, the processor's or the GPU's; or why none was.
    """

    batch: tuple[int, ...]
    prompt_tokens: int
    new_tokens: int
    prefill_tokens: int
    repeats: int
    max_seconds: float
    energy: str


class Protocols(Record):
    """How several benchmarks measured, or will, so that their numbers compare.

    Attributes:
        perplexity: a protocol a text.
        tasks: null without zero-shot tasks.
        speed: null without it.
        dtype: what was computed in.
        device: ``cpu``, ``cuda:0`` or another GPU's number.
    """

    perplexity: tuple[PerplexityProtocol, ...]
    tasks: TaskProtocol | None = None
    speed: SpeedProtocol | None
    dtype: str
    device: str


class Repeats(Record):
    """Every repeat of one measurement, in the order taken.

    Attributes:
        values: one a repeat.
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Their median."""
        return median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """Their smallest and largest."""
        return min(self.values), max(self.values)


class PerplexityResult(Record):
    """One model on one text.

    Attributes:
        corpus: the text's name.
        perplexity: exp of the mean loss over all tokens; the interval is one over windows.
        window_losses: mean loss of every window, in nats/token; all windows predict as many tokens.
    """

    corpus: str
    perplexity: Estimate
    window_losses: tuple[float, ...]


class TaskResult(Record):
    """One model on one task, by one of its metrics.

    Attributes:
        task: its name.
        metric: as lm-eval calls it: ``acc``, ``acc_norm``.
        accuracy: mean over items.
        stderr: its standard error; null for a single item.
        items: every item's score, in the order of their numbers.
    """

    task: str
    metric: str
    accuracy: float
    stderr: float | None
    items: tuple[float, ...]


class TaskDifference(Record):
    """The model's accuracy less the baseline's, on the same items.

    Attributes:
        task: its name.
        metric: as in ``TaskResult``.
        difference: of the means.
        stderr: standard error of the mean of the items' differences; null for a single item.
    """

    task: str
    metric: str
    difference: float
    stderr: float | None


class GenerationResult(Record):
    """One model generating a batch.

    Attributes:
        batch: sequences generated together.
        tokens_per_second: generated tokens/s, over all sequences.
        first_token_ms: ms until every sequence has its first new token.
        joules_per_token: of all processor packages, or of the GPU, as ``energy`` says; null where it is not counted.
        peak_bytes: weights, and the most memory in use above them.
    """

    batch: int
    tokens_per_second: Repeats
    first_token_ms: Repeats
    joules_per_token: Repeats | None
    peak_bytes: int


class ModelResult(Record):
    """What was measured of one model.

    Attributes:
        name: its directory or Hub id.
        num_blocks: transformer blocks.
        num_parameters: weights stored, tied ones once.
        weight_bytes: of its safetensors files' tensors.
        sparsity: what is zero in these files, tensor by tensor; null where it was not counted.
        load_seconds: from files to a model in memory; the files had just been read.
        perplexity: a result a text, in the order of the protocols.
        tasks: a result a task and metric.
        generation: a result a batch size.
        prompt: prompt tokens/s of the single long prompt.
        peak_bytes: weights, and the most memory in use above them, over all batches and the long prompt.
    """

    name: str
    num_blocks: int
    num_parameters: int
    weight_bytes: int
    sparsity: SparsityReport | None = None
    load_seconds: float | None = None
    perplexity: tuple[PerplexityResult, ...] = ()
    tasks: tuple[TaskResult, ...] = ()
    generation: tuple[GenerationResult, ...] = ()
    prompt: Repeats | None = None
    peak_bytes: int | None = None


class GateCheck(Record):
    """One ``--fail-if``.

    Attributes:
        condition: as typed.
        value: what was measured.
        failed: whether the condition holds, so that the command ends with exit code 3.
    """

    condition: str
    value: float
    failed: bool


class BenchResult(Artifact):
    """A file under ``bench/``, and what ``llmprune bench --json`` prints.

    Attributes:
        kind: always ``llmprune-bench``.
        schema_version: 2; it changes whenever an older reader would misread the file.
        created: when, in UTC.
        versions: the software.
        machine: the hardware, and what ran on it.
        device: ``cpu``, ``cuda:0`` or another GPU's number.
        dtype: what was computed in.
        perplexity: a protocol a text.
        tasks: null without ``--tasks``.
        speed: null with ``--no-speed``.
        baseline: the model to compare with; null where there is none.
        model: the model that was asked for.
        differences: one a task and metric; empty without a baseline.
        metrics: the figures that ``--fail-if`` takes, by name (below).
        gate: a check a ``--fail-if``.
    """

    KIND: ClassVar[str] = "llmprune-bench"
    SCHEMA: ClassVar[int] = 2

    kind: Literal["llmprune-bench"] = "llmprune-bench"
    schema_version: int = 2
    machine: Machine
    device: str
    dtype: str
    perplexity: tuple[PerplexityProtocol, ...] = ()
    tasks: TaskProtocol | None = None
    speed: SpeedProtocol | None = None
    baseline: ModelResult | None
    model: ModelResult
    differences: tuple[TaskDifference, ...] = ()
    metrics: dict[str, Estimate]
    gate: tuple[GateCheck, ...] = ()
