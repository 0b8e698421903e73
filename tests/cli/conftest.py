"""The command line, run in this process or in one of its own, on a tiny model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner, Result

from llmprune.cli.app import app
from tests.artifacts.conftest import small_disk  # noqa: F401 - a fixture of the commands' tests, too
from tests.cli.world import World
from tests.forked import start_forked
from tests.tiny import SAMPLES, SEQ_LEN, save_tiny_llama, write_text

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("LLMPRUNE_RUN", "LLMPRUNE_DEBUG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("texts") / "sea.txt")


@pytest.fixture(scope="session")
def small(text) -> list[str]:
    """Options of a small calibration."""
    return ["--source", str(text), "--samples", str(SAMPLES), "--seq-len", str(SEQ_LEN)]


@pytest.fixture(scope="session")
def ranked(tmp_path_factory, model, small) -> Path:
    """A run directory with calibration and importance file."""
    run = tmp_path_factory.mktemp("runs") / "ranked"
    for words in (["calibrate", str(model), *small], ["verify-redundancy", "--target", "2"]):
        result = CliRunner().invoke(app, [*words, "--run", str(run)])
        assert result.exit_code == 0, result.stderr
    return run


@pytest.fixture
def run(tmp_path, ranked) -> Path:
    """A copy of ``ranked``."""
    return Path(shutil.copytree(ranked, tmp_path / "run"))


@pytest.fixture
def llmprune() -> Callable[..., Result]:
    """Run the command line in this process."""

    def invoke(*words: object) -> Result:
        return CliRunner().invoke(app, [str(word) for word in words])

    return invoke


@pytest.fixture
def process() -> Callable[..., subprocess.Popen[str]]:
    """Start the command line in a process of its own, which Ctrl-C reaches.

    With variables of its own it is a new interpreter, since libraries read theirs when they are imported.
    """

    def start(*words: object, **environment: str) -> subprocess.Popen[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "LLMPRUNE_"))}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        if not environment:
            return start_forked(words, environment={**kept, "HF_HUB_OFFLINE": "1"}, **streams)
        variables = {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
        return subprocess.Popen([sys.executable, "-m", "llmprune", *map(str, words)], env=variables, **streams)

    return start


@pytest.fixture
def world(tmp_path, model, text, ranked):
    shutil.copytree(ranked, tmp_path / "run")
    world = World(tmp_path, model, text)
    yield world
    for lock in world.lock:
        lock.release()
