"""A pruned checkpoint for other tools: a tiny model without two of its blocks, then 2:4 zeros in what is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from typer.testing import CliRunner, Result

from llmprune.cli.app import app
from tests.tiny import save_tiny_llama, write_text

REMOVED = (1, 4)


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """The dense model; its matrices have the sizes that sparse kernels ask for."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1}
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "tiny", **sizes)


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("texts") / "sea.txt")


@pytest.fixture(scope="session")
def prune(tmp_path_factory, text) -> Callable[..., Path]:
    """Run a command of llmprune's in a run of its own; gives the directory of what it wrote."""

    def run(command: str, model: Path, *words: object) -> Path:
        folder = tmp_path_factory.mktemp("runs")
        if command == "global-prune":
            calibrated = ["calibrate", model, "--source", text, "--samples", 8, "--seq-len", 32]
            _succeed(*calibrated, "--run", folder / "run")
        _succeed(command, model, *words, "--run", folder / "run", "--out", folder / "out")
        return folder / "out"

    return run


def _succeed(*words: object) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="session")
def shorter(prune, model) -> Path:
    """The model without blocks 1 and 4."""
    return prune("remove-blocks", model, "--blocks", ",".join(map(str, REMOVED)))


@pytest.fixture(scope="session")
def sparse(prune, shorter) -> Path:
    """The same with 2 zeros in every 4 inputs."""
    return prune("global-prune", shorter, "--pattern", "2:4", "--method", "sparsegpt")


@pytest.fixture
def tokens() -> torch.Tensor:
    """(2, 24) tokens."""
    return torch.randint(4, 100, (2, 24), generator=torch.Generator().manual_seed(3))
