"""Speed of a model in memory: generating with the KV cache, and processing a prompt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import Tensor
from transformers import StoppingCriteria

from llmprune.evaluation.generation import generate, plain_greedy_config
from llmprune.models.memory import give_back_freed_memory
from llmprune.models.timing import now

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SAMPLE_SECONDS = 0.02


@dataclass(frozen=True)
class GenerationTime:
    """One timed generation.

    Attributes:
        first_token: seconds until every sequence had its first new token.
        total: seconds until every sequence had its last one.
    """

    first_token: float
    total: float


class _Clock(StoppingCriteria):
    """Notes the time after every new token, and never stops a sequence."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.times: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.times.append(now(self._device))
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def random_prompt(model: PreTrainedModel, *, batch: int, tokens: int) -> Tensor:
    """(batch, tokens) int64 of seeded random tokens. Their meaning does not change the time that they take."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(model.config.get_text_config(decoder=True).vocab_size)
    return torch.randint(vocabulary, (batch, tokens), generator=generator).to(model.device)


def time_generation(model: PreTrainedModel, prompt: Tensor, *, new_tokens: int) -> GenerationTime:
    """Generate exactly ``new_tokens`` greedily for every sequence of ``prompt`` (batch, tokens), with the KV cache.

    With a single new token it is the time of processing the prompt.
    """
    clock = _Clock(model.device)
    started = now(model.device)
    generate(model, prompt, plain_greedy_config(new_tokens), criteria=[clock])
    return GenerationTime(first_token=clock.times[0] - started, total=clock.times[-1] - started)


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], int]]:
    """Measure the most memory in use while the context lasts, in bytes above what was in use before.

    On an accelerator with memory of its own it is the allocator's count. Elsewhere it is the process's
    resident memory, sampled every 20 ms.
    """
    if device.type not in ("cpu", "mps"):
        torch.accelerator.reset_peak_memory_stats(device)
        before = torch.accelerator.memory_allocated(device)
        yield lambda: torch.accelerator.max_memory_allocated(device) - before
        return
    give_back_freed_memory()
    process, done = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def sample() -> None:
        nonlocal peak
        while not done.wait(_SAMPLE_SECONDS):
            peak = max(peak, process.memory_info().rss)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield lambda: max(peak, process.memory_info().rss) - before
    finally:
        done.set()
        sampler.join()
