"""The Hub on 127.0.0.1, the client of this process turned to it, and pruned checkpoints to send."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants
from typer.testing import CliRunner, Result

from llmprune.cli.app import app
from tests.hub.server import TOKEN, Hub
from tests.hub.storage import serving
from tests.tiny import save_tiny_llama, write_text

SPEED = ["--batch", 1, "--gen", 2, "--prompt", 4, "--prefill", 8, "--repeats", 2, "--max-seconds", 0]
LICENCE_CARD = "---\nlicense: apache-2.0\nlanguage: en\n---\n# A base model\n"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    """A Hub that the client of this process knows, with an empty cache and ada logged in."""
    with serving(Hub()) as running:
        turn_to(running, tmp_path / "hub-home", monkeypatch)
        yield running
        close_session()
    assert running.leaks == []


def turn_to(running: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT and the like do on import, done to a client that is imported already."""
    monkeypatch.setattr(constants, "ENDPOINT", running.endpoint)
    template = running.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(home / "harnesses.json"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("LLMPRUNE_RUN", "LLMPRUNE_DEBUG", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def llmprune() -> Callable[..., Result]:
    """Run the command line in this process."""

    def invoke(*words: object) -> Result:
        return CliRunner().invoke(app, [str(word) for word in words])

    return invoke


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """A base model whose card states its licence, in one directory by the name of tiny."""
    directory = save_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")
    (directory / "README.md").write_text(LICENCE_CARD)
    return directory


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
        ["bench", run / "cut", "--ppl", text, "--seq-len", 32, "--max-windows", 8, "--no-speed"],
        ["global-prune", "--pattern", "2:4", "--method", "magnitude", "--no-refit", "--out", run / "sparse"],
        ["bench", run / "sparse", "--ppl", text, "--seq-len", 32, "--max-windows", 8, *SPEED],
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
