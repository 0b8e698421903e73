"""Benchmark results: every number beside the protocol that it was measured under."""

from __future__ import annotations

from statistics import median
from typing import ClassVar, Literal

from llmprune.artifacts.provenance import Artifact, CorpusIdentity, Record


class PerplexityProtocol(Record):
    """How perplexity was measured: non-overlapping windows, logits in float32."""

    corpus: CorpusIdentity
    seq_len: int
    windows: int
    bos: bool


class SpeedProtocol(Record):
    """How speed was measured: baseline and model in turn, after a warm-up each.

    Attributes:
        batch: sequences generated together.
        prompt_tokens: in each.
        new_tokens: generated for each, greedily, with the KV cache.
        prefill_tokens: of the single long prompt.
        repeats: timed repeats.
    """

    batch: int
    prompt_tokens: int
    new_tokens: int
    prefill_tokens: int
    repeats: int


class Repeats(Record):
    """Every repeat of one measurement, in the order taken."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Their median."""
        return median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """Their smallest and largest."""
        return min(self.values), max(self.values)


class ModelResult(Record):
    """What was measured of one model.

    Attributes:
        name: its directory or Hub id.
        num_blocks: transformer blocks.
        num_parameters: weights stored, tied ones once.
        weight_bytes: of its safetensors files' tensors.
        window_losses: mean loss of every window, in nats/token.
        perplexity: exp of their mean.
        perplexity_interval: 95%, over windows.
        generation: generated tokens/s, over all sequences.
        first_token: ms until every sequence has its first new token.
        prompt: prompt tokens/s of the single long prompt.
        peak_bytes: weights, and the most memory in use above them while generating and processing the prompt.
    """

    name: str
    num_blocks: int
    num_parameters: int
    weight_bytes: int
    window_losses: tuple[float, ...] = ()
    perplexity: float | None = None
    perplexity_interval: tuple[float, float] | None = None
    generation: Repeats | None = None
    first_token: Repeats | None = None
    prompt: Repeats | None = None
    peak_bytes: int | None = None


class BenchResult(Artifact):
    """A file under ``bench/``."""

    KIND: ClassVar[str] = "llmprune-bench"

    kind: Literal["llmprune-bench"] = "llmprune-bench"
    schema_version: int = 1
    machine: str
    device: str
    dtype: str
    perplexity: PerplexityProtocol | None
    speed: SpeedProtocol | None
    baseline: ModelResult | None
    model: ModelResult
