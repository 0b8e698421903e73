"""Pruned checkpoints to send to the Hub."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llmprune.cli.app import app
from tests.hub import conftest as hub_fixtures
from tests.tiny import write_text

base, hub, llmprune = hub_fixtures.base, hub_fixtures.hub, hub_fixtures.llmprune

SPEED = ["--batch", 1, "--gen", 2, "--prompt", 4, "--prefill", 8, "--repeats", 2, "--max-seconds", 0]


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("texts") / "sea.txt")


@pytest.fixture(scope="session")
def made(tmp_path_factory, base, text) -> Path:
    """A run with the checkpoints ``cut`` (two blocks removed) and ``sparse`` (2:4), each with a benchmark."""
    run = tmp_path_factory.mktemp("runs") / "run"
    small = ["--source", text, "--samples", 8, "--seq-len", 32]
    commands = [
        ["calibrate", base, *small],
        ["remove-blocks", "--target", 2, "--out", run / "cut"],
        ["bench", run / "cut", "--ppl", text, "--ppl-seq-len", 32, "--max-windows", 8, "--no-speed"],
        ["global-prune", "--pattern", "2:4", "--method", "magnitude", "--no-refit", "--out", run / "sparse"],
        ["bench", run / "sparse", "--ppl", text, "--ppl-seq-len", 32, "--max-windows", 8, *SPEED],
    ]
    for words in commands:
        result = CliRunner().invoke(app, [*map(str, words), "--run", str(run), "--quiet"])
        assert result.exit_code == 0, result.stderr
    return run


@pytest.fixture
def run(tmp_path, made) -> Path:
    """A copy of ``made``."""
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def cut(run) -> Path:
    return run / "cut"


@pytest.fixture
def sparse(run) -> Path:
    return run / "sparse"


@pytest.fixture
def push(llmprune, run) -> Callable[..., Result]:
    """``llmprune push CHECKPOINT ada/model`` and what else is typed."""

    def invoke(checkpoint: Path, *words: object, repo: str = "ada/model") -> Result:
        return llmprune("push", checkpoint, repo, "--run", run, *words)

    return invoke
