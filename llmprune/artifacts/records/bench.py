"""Benchmark results: every number beside the protocol that it was measured under.

The page docs/bench-schema.md is made from the docstrings here (``python docs/bench_schema.py``).
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from llmprune.artifacts.records.agreement import AgreementProtocol, AgreementResult, DraftResult
from llmprune.artifacts.records.estimates import Estimate, Repeats
from llmprune.artifacts.records.protocols import PerplexityProtocol, SpeedProtocol, TaskProtocol
from llmprune.artifacts.records.provenance import Artifact, Blocks, Count, Record, WeightsIdentity
from llmprune.artifacts.records.zeros_counted import SparsityReport
from llmprune.errors import ArtifactError


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
        tf32: whether models that write greedily and models that are timed rounded float32 products to TF32: as the
            process had it set. Perplexity and tasks are always in float32. Null on the CPU, and in files from before
            it was kept.
    """

    processor: str
    threads: int
    memory_bytes: int
    system: str
    python: str
    cuda: str | None = None
    attention: tuple[str, ...] = ()
    tf32: bool | None = None

    def __str__(self) -> str:
        place = f"CUDA {self.cuda}" if self.cuda else f"{self.threads} threads"
        return f"{self.processor}, {place}, {self.memory_bytes / 2**30:.0f} GiB"


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
        metric: lm-eval's name of the metric: ``acc``, ``acc_norm``, ``exact_match``.
        filter: lm-eval's name of how the answer was found in what the model wrote, the task's first; ``none``: it is
            the answer.
        accuracy: mean over items.
        stderr: standard error of the mean; null for a single item.
        items: the score of every item, in the order of their numbers.
    """

    task: str
    metric: str
    filter: str = "none"
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
        greedy: token ids of prompts, and of what this model wrote greedily behind them; empty unless it is the dense
            model, and another was compared with it.
        agreement: how often it chooses what the dense model wrote; null for the dense model itself.
        draft: how it does as a draft for the dense model; null without ``--draft``.
        generation: one result for each batch size.
        prompt: prompt tokens/s of the single long prompt.
        peak_bytes: the weights and the most memory in use above them, over all batches and the long prompt.
        weights: which config and weights were measured; null of a model in memory, and in files from before it was
            kept.
    """

    name: str
    num_blocks: Blocks
    num_parameters: Count
    weight_bytes: Count
    sparsity: SparsityReport | None = None
    load_seconds: float | None = None
    perplexity: tuple[PerplexityResult, ...] = ()
    tasks: tuple[TaskResult, ...] = ()
    greedy: tuple[tuple[int, ...], ...] = ()
    agreement: AgreementResult | None = None
    draft: DraftResult | None = None
    generation: tuple[GenerationResult, ...] = ()
    prompt: Repeats | None = None
    peak_bytes: int | None = None
    weights: WeightsIdentity | None = None


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
        agreement: null where the models' greedy choices were not compared.
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
    agreement: AgreementProtocol | None = None
    baseline: ModelResult | None
    model: ModelResult
    differences: tuple[TaskDifference, ...] = ()
    metrics: dict[str, Estimate]
    gate: tuple[GateCheck, ...] = ()

    @classmethod
    def found(cls, path: Path) -> Self | None:
        """What lies there; None where there is no benchmark, or none that can be read."""
        try:
            return cls.read(path)
        except ArtifactError:
            return None

    @model_validator(mode="after")
    def _by_a_protocol(self) -> Self:
        """Whatever was measured of a model has its protocol."""
        texts = {protocol.corpus.name for protocol in self.perplexity}
        for one in filter(None, (self.model, self.baseline)):
            timed = one.generation or one.prompt is not None
            lacking = {found.corpus for found in one.perplexity} - texts
            if lacking or (one.tasks and self.tasks is None) or (timed and self.speed is None):
                raise ValueError("a text, a task or a speed has no protocol")
            if one.agreement is not None and self.agreement is None:
                raise ValueError("an agreement has no protocol")
        return self
