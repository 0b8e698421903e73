"""Timings that a test can count on, whatever else the machine does."""

from __future__ import annotations

import pytest

from llmprune.evaluation.latency import GenerationTime


def steady_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block takes a millisecond a sequence and token, in every repeat."""

    def time_generation(model, prompt, *, new_tokens):
        seconds = 1e-3 * model.config.num_hidden_layers * len(prompt)
        return GenerationTime(first_token=seconds * prompt.shape[1], total=seconds * (prompt.shape[1] + new_tokens))

    monkeypatch.setattr("llmprune.stages.benchmark.speed.time_generation", time_generation)
