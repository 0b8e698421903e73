"""A tiny model of some families, in memory and on disk, and windows for all of them."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from llmprune.models.loading import load_whole
from tests.tiny_models import random_tokens

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def tokens() -> torch.Tensor:
    """Calibration windows of words that the tiny tokenizer knows: (12, 32)."""
    return random_tokens(12, 32)


@pytest.fixture(scope="session")
def loaded(checkpoint: Callable[[str], Path]) -> Callable[[str], PreTrainedModel]:
    """A family's checkpoint in memory; tests must leave it as it is."""
    return cache(lambda family: load_whole(checkpoint(family), device=CPU, dtype=torch.float32))


def whole(directory: Path) -> PreTrainedModel:
    """A checkpoint as any user loads it."""
    return load_whole(directory, device=CPU, dtype=torch.float32)


def same_tensors(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    """Whether two models have the same parameters and buffers, bit for bit."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
