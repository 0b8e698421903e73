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
        interval: its 95% confidence interval; null for a count, a median, and a figure of one measurement.
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
    """The machine that was measured on.

    Attributes:
        processor: the name of the CPU, or of the GPU that was computed on.
        threads: torch's threads on the CPU.
        memory_bytes: memory of the machine, or of the GPU.
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
    """How perplexity was measured on one text: on windows that do not overlap, with logits in float32.

    Attributes:
        corpus: the text.
        seq_len: tokens in each window, BOS included.
        windows: the number of windows.
        bos: whether every window starts with BOS.
    """

    corpus: CorpusIdentity
    seq_len: int
    windows: int
    bos: bool


class TaskProtocol(Record):
    """How zero-shot accuracy was measured: by lm-eval, on the same items for both models.

    Attributes:
        tasks: lm-eval's names of the tasks.
        limit: how many items of each task, from the first on; null: all.
        lm_eval: the version of lm-eval.
        bos: whether every item starts with BOS.
    """

    tasks: tuple[str, ...]
    limit: int | None
    lm_eval: str
    bos: bool


class SpeedProtocol(Record):
    """How speed was measured: baseline and model in turn, after one warm-up of each.

    Attributes:
        batch: batch sizes, in sequences generated together; each was measured separately.
        prompt_tokens: tokens of the prompt of each sequence.
        new_tokens: tokens generated for each sequence, greedily, with the KV cache.
        prefill_tokens: tokens of the single long prompt.
        repeats: the least number of timed repeats.
        max_seconds: the time after which no further repeat began, once there were ``repeats``.
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
    """How all benchmarks of a sweep measure, so that their numbers compare.

    Attributes:
        perplexity: one protocol for each text.
        tasks: null without zero-shot tasks.
        speed: null where speed is not measured.
        dtype: the dtype that was computed in.
        device: ``cpu``, ``cuda:0`` or another GPU's number.
    """

    perplexity: tuple[PerplexityProtocol, ...]
    tasks: TaskProtocol | None = None
    speed: SpeedProtocol | None
    dtype: str
    device: str


class Repeats(Record):
    """Every repeat of one measurement.

    Attributes:
        values: one for each repeat, in the order taken.
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Their median."""
        return median(self.values)


class PerplexityResult(Record):
    """The perplexity of one model on one text.

    Attributes:
        corpus: the text's name.
        perplexity: exp of the mean loss over all tokens; the interval is over windows.
        window_losses: mean loss of every window, in nats/token; all windows predict the same number of tokens.
    """

    corpus: str
    perplexity: Estimate
    window_losses: tuple[float, ...]


class TaskResult(Record):
    """The accuracy of one model on one task, by one of the task's metrics.

    Attributes:
        task: the task's name.
        metric: lm-eval's name of the metric: ``acc``, ``acc_norm``.
        accuracy: mean over items.
        stderr: standard error of the mean; null for a single item.
        items: the score of every item, in the order of their numbers.
    """

    task: str
    metric: str
    accuracy: float
    stderr: float | None
    items: tuple[float, ...]


class TaskDifference(Record):
    """The model's accuracy minus the baseline's, on the same items.

    Attributes:
        task: the task's name.
        metric: as in ``TaskResult``.
        difference: difference of the means.
        stderr: standard error of the mean of the items' differences; null for a single item.
    """

    task: str
    metric: str
    difference: float
    stderr: float | None


class GenerationResult(Record):
    """The speed of one model generating one batch.

    Attributes:
        batch: sequences generated together.
        tokens_per_second: generated tokens/s of all sequences together.
        first_token_ms: ms until every sequence has its first new token.
        joules_per_token: of all processor packages, or of the GPU, as ``energy`` says; null where it is not counted.
        peak_bytes: the weights and the most memory in use above them.
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
        num_blocks: number of transformer blocks.
        num_parameters: number of stored weights, tied ones counted once.
        weight_bytes: bytes of the tensors in its safetensors files.
        sparsity: the zeros in these files, tensor by tensor; null where they were not counted.
        load_seconds: from files to a model in memory, measured once; the files had just been read.
        perplexity: one result for each text, in the order of the protocols.
        tasks: one result for each task and metric.
        generation: one result for each batch size.
        prompt: prompt tokens/s of the single long prompt.
        peak_bytes: the weights and the most memory in use above them, over all batches and the long prompt.
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
    """One condition of ``--fail-if``.

    Attributes:
        condition: as typed.
        value: the figure that was measured.
        failed: whether the condition holds. The command then ends with exit code 3.
    """

    condition: str
    value: float
    failed: bool


class BenchResult(Artifact):
    """A file under ``bench/``, and what ``llmprune bench --json`` prints.

    Attributes:
        kind: always ``llmprune-bench``.
        schema_version: 2; it changes whenever an older reader would misread the file.
        created: the time in UTC.
        versions: versions of the software.
        machine: the hardware and the system.
        device: ``cpu``, ``cuda:0`` or another GPU's number.
        dtype: the dtype that was computed in.
        perplexity: one protocol for each text.
        tasks: null without ``--tasks``.
        speed: null with ``--no-speed``.
        baseline: the model that was compared with; null where there is none.
        model: the model that was asked for.
        differences: one for each task and metric; empty without a baseline.
        metrics: the figures that ``--fail-if`` takes, by name (see below).
        gate: one check for each ``--fail-if``.
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
