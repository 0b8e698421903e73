"""The Hub on 127.0.0.1, and the client of this process turned to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants
from typer.testing import CliRunner, Result

from llmprune.cli.app import app
from tests.hub.server import TOKEN, Hub
from tests.hub.storage import serving
from tests.tiny import save_tiny_llama

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
